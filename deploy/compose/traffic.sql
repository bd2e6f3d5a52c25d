-- The statements of the application, which reads an order and changes it.
\set id random(1, 1000000)
select total, status from public.orders where id = :id;
update public.orders set status = 'seen' where id = :id;
