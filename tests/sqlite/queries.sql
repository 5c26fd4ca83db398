-- More of what SQLite can do, as features.sql: the answers must be those of a native database.
-- @COPY@ is the URI of a database of the same kind that is not there yet, @NATIVE@ that of a native one, @SELF@ this one's.
.bail off
.mode list
create table person(id integer primary key, name text collate nocase, boss integer references person(id), born text);
insert into person values (1, 'Ann', null, '1970-01-05'), (2, 'bob', 1, '1980-02-06'), (3, 'Cid', 1, '1990-03-07'),
	(4, 'dee', 2, '2000-04-08'), (5, 'Eve', 9, null);
create table visit(person integer, place text, cost numeric default 3, at text);
with recursive n(i) as (select 1 union all select i + 1 from n where i < 2000)
	insert into visit select i % 6 + 1, 'place ' || (i % 37), i % 11, date('2020-01-01', '+' || i || ' days') from n;

-- joins
select p.name, b.name from person p join person b on b.id = p.boss order by 1;
select p.name, b.name from person p left join person b on b.id = p.boss order by 1;
select p.name, b.name from person p right join person b on b.id = p.boss order by 2, 1;
select p.name, v.person, count(*) from person p full outer join visit v on v.person = p.id and v.cost > 9 group by 1, 2 order by 1, 2;
select count(*) from person cross join visit;
select count(*), sum(cost) from person natural join (select person as id, cost from visit);
select name from person p where exists (select 1 from visit where person = p.id and cost = 10) order by name;
select name, (select max(at) from visit where person = p.id) from person p order by id;
select name from person where name = 'BOB' or name in ('cid', 'EVE') collate binary order by name desc;
select count(distinct place), group_concat(distinct cost) from visit;
select place, total(cost) t from visit group by place having t > 270 order by t desc, place limit 5 offset 2;
select id from person where boss = 1 union select person from visit where cost > 9 except select 6 intersect select 3 order by 1;

-- common table expressions and windows
with recursive below(id, depth) as (select 1, 0 union all select p.id, depth + 1 from person p join below on p.boss = below.id)
	select depth, group_concat(id) from below group by depth;
with x as materialized (select place, sum(cost) c from visit group by place), y as not materialized (select max(c) m from x)
	select place, c from x, y where c = m;
with recursive fib(a, b) as (values (0, 1) union all select b, a + b from fib where b < 1000000) select max(a), count(*) from fib;
select person, at, sum(cost) over w, lag(cost, 1, -1) over w, ntile(4) over w from visit where person < 3
	window w as (partition by person order by at rows between 2 preceding and 1 following) order by 1, 2 limit 12;
select place, rank() over (order by n desc), dense_rank() over (order by n desc), round(cume_dist() over (order by n), 3)
	from (select place, count(*) n from visit group by place) order by 2, 1 limit 6;
select cost, sum(count(*)) over (order by cost range between 1 preceding and current row exclude ties) from visit group by cost;
select first_value(at) over (order by at groups 1 preceding) from visit order by at desc limit 1;
select count(*) filter (where cost > 5), max(at, '2023') from visit;

-- UPSERT, RETURNING, UPDATE FROM, row values
create table stock(item text primary key, n integer not null default 0 check (n >= 0), seen text);
insert into stock values ('nut', 1, 'a'), ('bolt', 2, 'a') returning item, n;
insert into stock values ('nut', 5, 'b'), ('cog', 1, 'b') on conflict(item) do update set n = n + excluded.n where n < 3 returning *;
insert into stock values ('nut', 5, 'c') on conflict do nothing returning *;
update stock set n = n + x.c from (select count(*) c from person) x where item = 'cog' returning item, n;
update stock set (n, seen) = (select count(*), 'd' from visit) where item = 'bolt' returning n, seen;
delete from stock where (item, n) in (values ('cog', 6), ('nut', 7)) returning item;
update stock set n = -1;
update or ignore stock set n = -1 where item = 'nut';
insert or replace into stock values ('nut', 9, null);
replace into stock(item) values ('pin');
select * from stock order by item;

-- constraints that wait, keys that cascade, triggers
pragma foreign_keys = on;
create table team(id integer primary key, lead integer references member(id) deferrable initially deferred);
create table member(id integer primary key, team integer references team(id) on update cascade on delete set null);
begin;
insert into team values (1, 10);
insert into member values (10, 1), (11, 1);
commit;
begin;
insert into team values (2, 99);
commit;
rollback;
update team set id = 7;
select * from member;
delete from member where id = 11;
delete from team where id = 7;
select * from member;
create table told(what, n);
create view lives(name, age) as select name, 2020 - substr(born, 1, 4) from person where born is not null;
create trigger lives_insert instead of insert on lives begin insert into person(name, born) values (new.name, 2020 - new.age || '-01-01'); end;
create trigger person_before before insert on person when new.name = 'nobody' begin select raise(abort, 'no such person'); end;
create trigger person_after after update of name, boss on person begin insert into told values (old.name || '>' || new.name, new.id); end;
create trigger person_gone after delete on person begin delete from visit where person = old.id; insert into told values (old.name, changes()); end;
insert into lives values ('Fay', 33);
insert into lives values ('nobody', 1);
update person set name = upper(name) where id < 3;
delete from person where id = 4;
select * from lives order by 1;
select * from told;
select count(*) from visit;
pragma recursive_triggers = on;
create trigger told_again after insert on told when new.n > 0 begin insert into told values ('again', new.n - 1); end;
insert into told values ('first', 20);
select count(*), sum(n) from told;

-- kinds of tables and columns
create table exact(i int, r real, t text, b blob, a any) strict;
insert into exact values (1, 2, '3', x'04', 'five'), ('6', '7.5', 8, x'', 9.5);
insert into exact(i) values ('six');
insert into exact(b) values ('no blob');
select typeof(i), typeof(r), typeof(t), typeof(b), typeof(a), * from exact;
create table pair(a, b, c, primary key(b, a)) without rowid;
insert into pair select i % 50, i / 50, printf('%.*c', i % 300, 'p') from (select value i from generate_series(0, 1999));
insert into pair values (3, 3, 'twice');
select sum(length(c)), count(*) from pair where b between 5 and 9;
delete from pair where a % 3 = 1;
select count(*), max(c) from pair;
create table derived(w real, h real, area real as (w * h) stored check (area < 100), name as (printf('%gx%g', w, h)), unique(area));
insert into derived(w, h) values (2, 3), (3, 4);
insert into derived(w, h) values (6, 1);
insert into derived(w, h) values (20, 30);
create index derived_name on derived(name collate rtrim desc);
select *, area from derived indexed by derived_name where name > '2' order by name;
alter table derived add column half as (area / 2);
select half from derived;
create table auto(id integer primary key autoincrement, x);
insert into auto(x) values (1), (2);
delete from auto where id = 2;
insert into auto(x) values (3);
select * from auto;
select * from sqlite_sequence;
insert into auto values (9223372036854775807, 0);
insert into auto(x) values (4);
create unique index visit_some on visit(place, at) where cost = 10;
create index visit_expr on visit(substr(at, 1, 4), cost desc);
explain query plan select count(*) from visit where substr(at, 1, 4) = '2021' and cost > 3;
select count(*) from visit where substr(at, 1, 4) = '2021' and cost > 3;
select count(*) from visit where cost = 10 and place > 'place 3';
create table like_visit as select * from visit order by at desc limit 100;
insert into like_visit default values;
select count(*), count(cost) from like_visit;

-- changes of the schema
alter table like_visit rename to few;
alter table few rename column place to spot;
alter table few drop column cost;
alter table few add column extra text not null default 'none' collate nocase;
select spot, extra from few order by rowid limit 2;
pragma table_xinfo(few);
drop view lives;
drop index visit_some;
create temp view v as select count(*) n from main.few;
create temp trigger t after delete on main.few begin insert into told values ('temp', 0); end;
delete from few where rowid < 4;
select n from v;
begin;
drop table few;
create table few(other);
insert into few values (1);
rollback;
select count(*) from few;
savepoint a;
create table gone(x);
insert into gone values (1);
savepoint b;
drop table gone;
rollback to b;
select count(*) from gone;
rollback to a;
release a;
select count(*) from gone;
pragma schema_version;
pragma writable_schema = on;
select type, name, rootpage > 0 from sqlite_schema order by name, type;
pragma writable_schema = off;

-- virtual tables, JSON, blobs
create virtual table doc using fts5(title, body, tokenize = 'porter unicode61', prefix = '2 3');
insert into doc select 'Title ' || value, 'the running dogs of number ' || (value * 7) || ' are jumping' from generate_series(1, 600);
select rowid, snippet(doc, 1, '[', ']', '..', 3) from doc where doc match 'run AND dog AND 77' order by rank;
select count(*) from doc where doc match 'ju* NEAR(number 49, 2)';
select highlight(doc, 0, '<', '>') from doc('title : 12');
update doc set body = 'cats' where rowid % 100 = 0;
select rowid from doc where doc match 'cat' order by rowid;
insert into doc(doc) values ('rebuild');
insert into doc(doc) values ('integrity-check');
create virtual table tri using fts5(t, tokenize = trigram, content = '');
insert into tri(rowid, t) values (1, 'pagestore'), (2, 'restored');
select rowid from tri where t match 'store' order by rowid;
create virtual table old using fts4(t, tokenize = porter);
insert into old select body from doc limit 50;
select count(*), length(offsets(old)) from old where old match 'jump';
insert into old(old) values ('optimize');
create virtual table area using rtree(id, x0, x1, +what);
insert into area select value, value, value + 1.5, 'n' || value from generate_series(1, 800);
select count(*), max(what) from area where x0 >= 100 and x1 <= 110;
delete from area where id % 2;
select rtreecheck('area'), count(*) from area;
create table j(d json);
insert into j values ('{"a":{"b":[1,2,3]},"c":"x"}'), (json_object('a', json_array(1, null, 'z')));
select d ->> '$.c', d -> '$.a', json_type(d, '$.a') from j;
update j set d = json_set(json_remove(d, '$.c'), '$.e', json('[true]')) returning d;
select key, atom, fullkey from j, json_tree(j.d) where atom is not null order by j.rowid, fullkey;
create table big(id integer primary key, b blob);
insert into big values (1, zeroblob(20000000)), (2, cast(printf('%.*c', 5000000, 'b') as blob));
select id, length(b), hex(sha3(b, 224)) from big;
update big set b = cast(b || 'tail' as blob) where id = 2;
select hex(substr(b, -6)), length(b) from big where id = 2;
delete from big where id = 1;
select name, sum(pgsize) > 0, sum(ncell) from dbstat where name in ('person', 'stock', 'team') group by name;

-- this database again, a copy, and one that is native
attach '@SELF@' as again;
select count(*) = (select count(*) from main.visit) from again.visit;
insert into visit values (1, 'after', 1, null);
select count(*) from again.visit where place = 'after';
detach again;
vacuum into '@COPY@';
vacuum into '@COPY@';
vacuum into '@NATIVE@';
attach '@COPY@' as copy;
attach '@NATIVE@' as native;
select count(*), (select count(*) from copy.visit), (select count(*) from native.visit) from main.visit;
pragma copy.integrity_check;
pragma native.integrity_check;
select count(*) from (select * from copy.pair except select * from native.pair);
delete from copy.visit where cost > 5;
insert into native.visit select * from copy.visit limit 10;
drop table copy.big;
vacuum copy;
pragma copy.freelist_count;
pragma copy.integrity_check;
select count(*), (select count(*) from copy.visit), (select count(*) from native.visit) from main.visit;
detach copy;
detach native;

-- pragmas, statistics, limits
analyze;
select tbl, idx, stat from sqlite_stat1 order by 1, 2;
pragma optimize;
reindex nocase;
reindex visit;
pragma quick_check;
pragma integrity_check(person);
pragma foreign_key_check(member);
pragma encoding;
pragma page_size;
pragma auto_vacuum;
pragma legacy_file_format;
pragma user_version = -5;
pragma user_version;
pragma application_id = 1346787922;
pragma application_id;
pragma max_page_count = 1;
pragma cell_size_check = on;
pragma secure_delete = fast;
pragma temp_store = memory;
pragma read_uncommitted = 1;
pragma query_only = on;
delete from person;
pragma query_only = off;
pragma reverse_unordered_selects = on;
select id from person;
create temp table many as select * from visit order by place desc, at;
select count(*), min(rowid) from many;
pragma temp_store = file;
select group_concat(place) from (select distinct place from visit order by length(place) desc, place limit 4);
pragma cache_spill = off;
begin;
update visit set place = place || ' and more';
select count(*) from visit where place like '%more';
rollback;
begin exclusive;
delete from visit where cost = 0;
commit;
begin immediate;
delete from visit where cost = 1;
end;
select count(*), sum(cost) from visit;
delete from doc;
drop table old;
pragma incremental_vacuum;
pragma integrity_check;
vacuum;
pragma integrity_check;
