-- What the application does all day: it looks at an order, and changes one.
\set id random(1, 1000000)
select total, status from public.orders where id = :id;
update public.orders set status = 'seen' where id = :id;
