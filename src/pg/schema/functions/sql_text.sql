-- Splits an SQL fragment into tokens, each with its depth of nesting in brackets. Refuses fragments
-- that could affect the statement outside the fragment, because they contain unbalanced brackets,
-- unterminated quotes or comments, or semicolons. Also refuses parameters, UESCAPE, escape strings
-- that continue in a second quote, and fragments of more than 64 kB. The function and the server
-- must agree on where each quote ends. Otherwise the server could execute text that this function
-- takes for a string.
create or replace function backfill._lex(fragment text, what text) returns table (kind text, body text, depth integer)
language plpgsql immutable set search_path = pg_catalog, pg_temp as $$
declare
  -- As on the server, each non-ASCII character counts as a letter.
  first_letter constant text := '[^\u0001-\u0040\u005b-\u005e\u0060\u007b-\u007f]';
  a_letter     constant text := '[^\u0001-\u0023\u0025-\u002f\u003a-\u0040\u005b-\u005e\u0060\u007b-\u007f]';
  no_dollar    constant text := '[^\u0001-\u002f\u003a-\u0040\u005b-\u005e\u0060\u007b-\u007f]';
  a_tag        constant text := '^\$(?:' || first_letter || no_dollar || '*)?\$';
  blank        constant text := '[ \t\n\r\f\v]';
  total constant integer := length(fragment);
  -- A long text is processed in pieces, because the cost of each match grows with the length of the
  -- text.
  begins integer := 1;
  piece text := left(fragment, 4000);
  used integer := 0;
  look text;
  stack text := '';
  tag text;
  level integer;
  opens integer;
  ends integer;
  at integer;
begin
  if octet_length(fragment) > 65536 then
    perform backfill._refuse(format('%s is %s kB long', what, octet_length(fragment) / 1024), 'The limit is 64 kB.', 'Move the logic into a function and call the function.');
  end if;
  while begins + used <= total loop
    if used > 3000 then
      begins := begins + used; used := 0; piece := substr(fragment, begins, 4000);
    end if;
    look := substr(piece, used + 1, 100);
    loop
      if look ~ ('^' || blank) then
        kind := 'space'; body := substring(look from '^' || blank || '+');
      elsif look ~ '^--' then
        kind := 'space'; body := substring(look from '^--[^\n\r]*');
      elsif look ~ '^/\*' then
        -- Block comments nest.
        kind := 'space'; level := 0; at := 1;
        loop
          tag := substr(look, at);
          opens := nullif(position('/*' in tag), 0); ends := nullif(position('*/' in tag), 0);
          level := level + case when opens < ends or ends is null then 1 else -1 end;
          at := case when ends is null then null else at + least(opens, ends) + 1 end;
          exit when level = 0 or at is null;
        end loop;
        body := left(look, at - 1);
      elsif look ~ '^[eE]''' then
        kind := 'escapes'; body := substring(look from '^[eE]''(?:[^''\\]|\\.|'''')*''');
      elsif look ~ '^(?:[bBxXnN]|[uU]&)?''' then
        kind := 'string'; body := substring(look from '^(?:[bBxXnN]|[uU]&)?''(?:[^'']|'''')*''');
      elsif look ~ '^(?:[uU]&)?"' then
        kind := 'quoted'; body := substring(look from '^(?:[uU]&)?"(?:[^"]|"")*"');
      elsif look ~ a_tag then
        tag := substring(look from a_tag);
        at := position(tag in substr(look, length(tag) + 1));
        kind := 'string'; body := case when at > 0 then left(look, at + 2 * length(tag) - 1) end;
      elsif look ~ ('^' || first_letter) then
        kind := 'word'; body := substring(look from '^' || a_letter || '+');
      elsif look ~ '^[([]' then
        kind := 'open'; body := left(look, 1);
      elsif look ~ '^[])]' then
        kind := 'close'; body := left(look, 1);
      else
        kind := 'other'; body := left(look, 1);
      end if;
      -- If the token may extend beyond `look`, it is matched again on the rest of the fragment.
      exit when length(look) = total - begins - used + 1 or (length(body) < length(look) - 1 and kind <> 'escapes');
      look := substr(fragment, begins + used);
    end loop;
    if body is null and kind = 'space' then
      perform backfill._refuse(format('unterminated comment in %s', what), format('The comment begins with: %s', left(look, 40)), 'Close the comment with */.');
    elsif body is null then
      perform backfill._refuse(format('unterminated quote in %s', what), format('The quoted text begins with: %s', left(look, 40)), 'Close the quote.');
    elsif kind = 'quoted' and body ~* '^u&' and substr(fragment, begins + used + length(body)) ~* ('^' || blank || '*uescape\M') then
      perform backfill._refuse(format('%s contains UESCAPE', what), 'backfilld cannot parse identifiers with an escape character other than \.', 'Use the character \ in U&"...", and leave UESCAPE out.');
    elsif body = ';' then
      perform backfill._refuse(format('%s contains a semicolon', what), 'Each batch is a single statement.', 'Remove the semicolon and everything after it.');
    elsif body = '$' then
      perform backfill._refuse(format('%s contains a parameter', what), 'Parameters have no value in a batch.', 'Write the value instead.');
    elsif kind = 'escapes' then
      -- The server continues the string in the next quote, and processes backslash escapes there,
      -- too.
      if substr(look, length(body) + 1) ~ ('^(?:' || blank || '|--[^\n\r]*)*''') then
        perform backfill._refuse(format('%s contains an escape string that continues in a second quoted part', what), format('The string begins with: %s', left(look, 40)), 'Write the value as one string, or join two strings with ||.');
      end if;
      kind := 'string';
    elsif kind = 'close' then
      if right(stack, 1) is distinct from (case body when ')' then '(' else '[' end) then
        perform backfill._refuse(format('unmatched "%2$s" in %1$s', what, body), case when substr(look, 2) = '' then 'There is no text after it.' else format('The text after it begins with: %s', left(substr(look, 2), 40)) end, format('Remove this "%s", or add the opening "%s".', body, translate(body, ')]', '([')));
      end if;
      stack := left(stack, -1);
    end if;
    depth := length(stack);
    return next;
    if kind = 'open' then
      stack := stack || body;
    end if;
    used := used + length(body);
  end loop;
  if stack <> '' then
    perform backfill._refuse(format('unclosed "%2$s" in %1$s', what, right(stack, 1)), format('The text is: %s', left(fragment, 200)), 'Add the closing bracket.');
  end if;
end $$;

-- Returns an SQL fragment as an array of tokens, so that a comparison ignores blanks, line breaks,
-- comments and the case of words. A blank is kept only between two tokens that would otherwise
-- become one token, for example 1 .5 or < -.
create or replace function backfill._tokens(fragment text, what text) returns text[]
language sql immutable set search_path = pg_catalog, pg_temp as $$
  with token as (
    select l.kind, l.body, l.n, lag(l.kind, 1, '') over w as before, lag(l.kind, 2, '') over w as before_that, lag(l.body, 2, '') over w as body_before_that
      from (select x.kind, min(x.n) as n, string_agg(x.body, '' order by x.n) as body
              -- Consecutive blanks and comments count as one blank.
              from (select t.*, sum(case when t.kind = 'space' and t.previous = 'space' then 0 else 1 end) over (order by t.n) as part
                      from (select y.kind, y.body, y.n, lag(y.kind, 1, '') over (order by y.n) as previous from backfill._lex(fragment, what) with ordinality y(kind, body, depth, n)) t) x
             group by x.part, x.kind) l
    window w as (order by l.n))
  select coalesce(array_agg(case when t.before = 'space' and t.before_that = 'other' and t.kind = 'other' and (t.body ~ '[0-9.]') = (t.body_before_that ~ '[0-9.]') then ' ' else '' end
                            || case t.kind when 'word' then lower(t.body) else t.body end order by t.n) filter (where t.kind <> 'space'), '{}')
    from token t
$$;

create or replace function backfill._same_sql(a text, b text, what text) returns boolean
language plpgsql immutable set search_path = pg_catalog, pg_temp as $$
begin
  -- Usually the texts are identical, and then neither of them is split into tokens.
  if a is not distinct from b then
    return true;
  elsif a is null or b is null then
    return false;
  end if;
  return backfill._tokens(a, what) = backfill._tokens(b, what);
end $$;

-- Splits 'a = 1, (b, c) = (select ...)' into ({a}, '1'), ({b,c}, '(select ...)'). Column names are
-- returned without quotes.
create or replace function backfill._assignments(set_sql text) returns table (columns text[], expression text)
language plpgsql immutable set search_path = pg_catalog, pg_temp as $$
declare
  token record;
  in_columns boolean := true;
  listed boolean := false;
  expects_name boolean := true;
  shape constant text := 'The form is: column = expression, column = expression, ...';
begin
  columns := '{}'; expression := '';
  for token in select l.kind, l.body, l.depth from backfill._lex(set_sql, 'set') l loop
    if in_columns then
      if token.kind = 'space' then
        continue;
      elsif token.kind in ('word', 'quoted') and expects_name then
        columns := columns || case when token.kind = 'word' then lower(token.body)
                                   else replace(substr(token.body, 2, length(token.body) - 2), '""', '"') end;
        expects_name := false;
      elsif token.kind = 'open' and token.body = '(' and columns = '{}' and not listed then
        listed := true;
      elsif token.body = ',' and listed and not expects_name then
        expects_name := true;
      elsif token.kind = 'close' and listed and not expects_name then
        null;
      elsif token.body = '=' and token.depth = 0 and columns <> '{}' and not expects_name then
        in_columns := false;
      elsif columns <> '{}' and token.body in ('[', '.') then
        perform backfill._refuse(format('set assigns to "%s%s..."', columns[1], token.body), 'The left side of an assignment must be the name of a column.', 'Assign the whole column, and write its name without the table.');
      else
        perform backfill._refuse(format('syntax error in set at or near "%s"', token.body), format('The text is: %s', left(set_sql, 200)),
          case when columns = '{set}' then 'Leave the keyword SET out: column = expression, ...' else shape end);
      end if;
    elsif token.body = ',' and token.depth = 0 and token.kind = 'other' then
      return next;
      columns := '{}'; expression := ''; in_columns := true; listed := false; expects_name := true;
    else
      expression := expression || token.body;
    end if;
  end loop;
  if in_columns or btrim(expression, E' \t\n\r') = '' then
    perform backfill._refuse('set is incomplete', format('The text is: "%s"', left(set_sql, 200)), shape);
  end if;
  return next;
end $$;

-- Returns an UPDATE statement with the assignments and the filter of a job, for checks and
-- previews. The statements of the daemon's batches contain the assignments and the filter in the
-- same form.
create or replace function backfill._update_sql(target text, set_sql text, filter_sql text) returns text
language sql immutable set search_path = pg_catalog, pg_temp as $$
  select format(E'update only %s set %s where (%s)', target,
    (select string_agg(
       case when cardinality(a.columns) = 1 then format(E'%I = (\n%s\n)', a.columns[1], a.expression)
            else format(E'(%s) = (\n%s\n)', (select string_agg(quote_ident(c), ', ' order by n) from unnest(a.columns) with ordinality u(c, n)), a.expression)
       end, ', ') from backfill._assignments(set_sql) a),
    coalesce(E'\n' || filter_sql || E'\n', 'true'))
$$;

-- Returns the statement of a job, for checks and previews. The server's errors refer to this
-- statement.
create or replace function backfill._work_sql(kind text, target text, set_sql text, filter_sql text) returns text
language sql immutable set search_path = pg_catalog, pg_temp as $$
  select case kind when 'delete' then format(E'delete from only %s where (\n%s\n)', target, filter_sql)
                   else backfill._update_sql(target, set_sql, filter_sql) end
$$;

-- Returns the filter in its stored form, or null if the job has no filter. Refuses a blank filter
-- of an update, because the caller probably forgot the condition, and without a condition the job
-- would change every row.
create or replace function backfill._filter_of(kind text, filter text) returns text
language plpgsql immutable set search_path = pg_catalog, pg_temp as $$
declare
  v_filter text := btrim(filter, E' \t\n\r');
begin
  if kind = 'update' and v_filter = '' then
    perform backfill._refuse('filter is blank', 'A blank filter may be a mistake. Without a filter, every row is changed.', 'Leave filter out to change every row, or write a condition.');
  end if;
  return nullif(v_filter, '');
end $$;

-- Returns the reason why the expressions cannot be compared with the values that they assigned, or
-- null if their text shows no reason. The function reports only cases that it is sure of: a word
-- counts as a column name only if it can have no other meaning in its position. The planner detects
-- the other cases.
create or replace function backfill._incomparable(set_sql text) returns text
language sql immutable set search_path = pg_catalog, pg_temp as $$
  with assigned as (select array_agg(c) as columns from backfill._assignments(set_sql) a, unnest(a.columns) c),
  token as (
    select l.kind, l.body, case l.kind when 'word' then lower(l.body) when 'quoted' then replace(substr(l.body, 2, length(l.body) - 2), '""', '"') end as name,
           lag(l.kind) over w as kind_before, lag(l.body) over w as before, lead(l.kind) over w as kind_after, lead(l.body) over w as after, lead(l.body, 2) over w as after_that
      from backfill._assignments(set_sql) with ordinality a(columns, expression, n), backfill._lex(a.expression, 'set') with ordinality l(kind, body, depth, m)
     where l.kind <> 'space'
    window w as (partition by a.n order by l.m))
  select case
    when exists (select from token t where t.kind = 'word' and t.name = 'select') then 'A subquery can return different rows each time.'
    else (select format('Column "%s" is both assigned and read, and its old value is not kept.', t.name) from token t, assigned
           where t.name = any (assigned.columns)
             and (t.kind_before is null or t.kind_before = 'open' or t.kind_before = 'other' and t.before not in ('.', ':'))
             and (t.kind_after is null or t.kind_after = 'close' or t.kind_after = 'other' and t.after <> '.' and not (t.after = '=' and t.after_that = '>') and not (t.after = ':' and t.after_that = '='))
           limit 1)
    end
$$;

-- Returns the condition that selects the rows in which a column differs from the expression that
-- the assignments (set) give it.
create or replace function backfill._differs(relation oid, set_sql text) returns text
language sql stable set search_path = pg_catalog, pg_temp as $$
  select format('(%s)', string_agg(format(E'%s is distinct from (\n%s\n)%s',
    case when cardinality(a.columns) = 1 then quote_ident(a.columns[1])
         else format('row(%s)', (select string_agg(quote_ident(u.c), ', ' order by u.n) from unnest(a.columns) with ordinality u(c, n))) end, btrim(a.expression, E' \t\n\r'),
    -- The cast is the same as in the assignment. For example, a number that is assigned to a text
    -- column is compared as text.
    (select '::' || format_type(t.atttypid, t.atttypmod) from pg_attribute t
      where t.attrelid = _differs.relation and t.attname = a.columns[1] and not t.attisdropped and cardinality(a.columns) = 1)), ' or '))
    from backfill._assignments(set_sql) a
$$;

-- Returns a number of rows with its noun, for example "1 row" or "2 rows". The caller adds the
-- verb.
create or replace function backfill._rows_text(n bigint) returns text
language sql immutable set search_path = pg_catalog, pg_temp as $$ select format('%s row%s', n, case when n <> 1 then 's' end) $$;

-- Checks the filter, and each expression of the assignments (set), a second time with the server's
-- own parser. _lex and the parser could disagree about where a quote ends. A text whose brackets do
-- not match, for example `a) or (b`, becomes correct SQL within the parentheses that a batch puts
-- around it. Here each text stands in a statement without parentheses around it, so the text's own
-- brackets must match. The table of this statement does not exist, so the server parses the
-- statement and then stops before it resolves any name or executes anything. An expression is
-- parsed after `where`. A query without parentheses of its own (column = select ...) is parsed
-- after `insert into`.
create or replace function backfill._check_fragments(set_sql text, filter_sql text) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  f record;
  start text;
  first_error text;
begin
  perform backfill._lex(filter_sql, 'filter') where filter_sql is not null;
  <<fragments>>
  for f in select 'set' as what, a.expression as body from backfill._assignments(set_sql) a where set_sql is not null union all select 'filter', filter_sql where filter_sql is not null loop
    first_error := null;
    foreach start in array array['select from pg_catalog."no such table" where', 'insert into pg_catalog."no such table"'] loop
      begin
        execute start || E'\n' || f.body || E'\n';
      exception
        when undefined_table then continue fragments;
        when others then first_error := coalesce(first_error, sqlerrm);
      end;
    end loop;
    perform backfill._refuse(format('%s is not a complete expression: %s', f.what, coalesce(first_error, 'it was executed')), 'The server must be able to parse the text without the parentheses that a batch puts around it.', 'Write a single complete expression, in which each opening bracket has a closing bracket.');
  end loop;
end $$;
