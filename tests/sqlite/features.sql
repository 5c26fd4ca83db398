-- What SQLite can do to a database. Run on a native one and on one in a pagestore (integration/test_sqlite_shell.sh): the answers must
-- the same. @OTHER@ is the URI of another database of the same kind, @PLAIN@ that of a native one.
.bail off
.mode list
pragma foreign_keys = on;
create table author(id integer primary key, name text not null unique);
create table book(id integer primary key, author references author on delete cascade, title text, price real,
	check (price > 0));
create index book_by_author on book(author, title);
insert into author(name) values ('Ada'), ('Brian'), ('Cleo');
with recursive n(i) as (select 1 union all select i + 1 from n where i < 3000)
	insert into book(author, title, price) select i % 3 + 1, printf('Book %05d', i), i * 0.25 from n;
select a.name, count(*), round(sum(b.price), 2), min(title), max(title)
	from book b join author a on a.id = b.author group by 1 order by 1;
select a.name, b.title from author a left join book b on b.author = a.id and b.price < 1 order by 1, 2;
insert into book(author, title, price) values (99, 'nobody''s', 1);
insert into book(author, title, price) values (1, 'free', 0);
insert or ignore into author(name) values ('Ada'), ('Dora');
insert into author(name) values ('Ada') on conflict(name) do update set name = 'Ada L.';
select * from author order by id;
select title, row_number() over (partition by author order by price desc) r from book order by r, title limit 5;
delete from author where name = 'Cleo';
select count(*) from book;

-- triggers, views, generated columns, partial and expression indexes, without rowid
create table audit(what text, n integer);
create trigger book_gone after delete on book begin insert into audit values ('gone', old.id); end;
create view cheap as select title, price from book where price < 10;
delete from book where id % 10 = 0;
select what, count(*), sum(n) from audit group by what;
select count(*), round(sum(price), 2) from cheap;
create table gen(a int, b int generated always as (a * 2) stored, c text generated always as (a || '!') virtual);
insert into gen(a) values (1), (2), (3);
select * from gen;
create index gen_even on gen(b) where a % 2 = 0;
create index gen_expr on gen(a + b);
select a from gen where a + b = 6;
create table kv(k text primary key, v blob) without rowid;
insert into kv values ('b', x'00ff'), ('a', zeroblob(10)), ('c', x'');
select k, length(v), hex(substr(v, 1, 2)) from kv order by k;
create table s(a int, b text) strict;
insert into s values ('no number', 1);

-- large rows
create table large(id integer primary key, body blob);
insert into large values (1, zeroblob(3000000)), (2, cast(printf('%.*c', 200000, 'x') as blob));
select id, length(body), hex(substr(body, 100000, 4)) from large;
update large set body = substr(body, 1, 100) where id = 1;
select id, length(body) from large;

-- savepoints, statements that fail halfway, rollback
begin;
update book set price = price + 1;
savepoint one;
delete from book where author = 1;
savepoint two;
insert into book(author, title, price) select 1, 'again', 5 from book;
rollback to two;
release one;
select count(*), round(sum(price), 2) from book;
rollback;
select count(*), round(sum(price), 2) from book;
savepoint outer;
update book set title = 'all' where id < 100;
release outer;
select count(*) from book where title = 'all';
create table u(a unique);
insert into u values (1), (2), (3), (2);
insert or fail into u values (1), (2), (3), (2), (4);
select * from u;
update or replace u set a = a + 1;
select * from u;

-- JSON, FTS5, R-tree, tables of dates
select json_extract('{"a":[1,2,{"b":null}]}', '$.a[1]'), json_group_array(a) from gen;
select key, value from json_each('{"x":1,"y":[2]}');
create virtual table words using fts5(t);
insert into words select title from book limit 500;
insert into words(words) values ('optimize');
select rowid, t from words where words match '"book 00021" or 000*' order by rowid limit 4;
select count(*) from words where words match 'book';
delete from words where rowid < 100;
insert into words(words) values ('integrity-check');
create virtual table boxes using rtree(id, x0, x1, y0, y1);
with recursive n(i) as (select 1 union all select i + 1 from n where i < 500)
	insert into boxes select i, i, i + 2, i % 7, i % 7 + 1 from n;
select count(*), sum(id) from boxes where x1 > 100 and x0 < 150 and y0 >= 3;
select date('2024-02-28', '+2 days'), strftime('%j', '2024-12-31');

-- temporary tables, and other databases
create temp table scratch as select * from book where price > 700;
select count(*) from scratch;
update scratch set title = 'temp';
drop table scratch;
attach '@OTHER@' as other;
create table other.copy(id integer primary key, title);
insert into other.copy select id, title from book limit 50;
select count(*) from other.copy c join book b on b.id = c.id and b.title = c.title;
detach other;
attach '@OTHER@' as other;
select count(*), max(id) from other.copy;
detach other;
attach '@PLAIN@' as plain;
create table plain.copy as select id, price from book where id < 20;
insert into audit select 'from plain', id from plain.copy;
select what, count(*) from audit group by 1 order by 1;
detach plain;

-- altering, analysing, shrinking
alter table book add column pages int default 100;
alter table book rename column price to cost;
alter table gen rename to generated;
select sum(pages), round(avg(cost), 3) from book;
analyze;
select tbl, idx from sqlite_stat1 order by 1, 2;
reindex;
pragma integrity_check;
delete from book where id % 3 = 0;
drop table large;
select count(*) from pragma_freelist_count where freelist_count > 0;
pragma page_size;
vacuum;
pragma freelist_count;
pragma page_count;
pragma integrity_check;
pragma user_version = 7;
pragma application_id = 99;
pragma user_version;
pragma auto_vacuum = incremental;
vacuum;
delete from book where id % 2 = 0;
pragma incremental_vacuum(3);
pragma integrity_check;
pragma page_size = 1024;
vacuum;
pragma page_size;
pragma page_count;
pragma integrity_check;
pragma page_size = 65536;
vacuum;
pragma page_size;
insert into book(author, title, cost) select author, title, cost from book;
select count(*) from book;
pragma page_size = 4096;
vacuum;
pragma page_count;
pragma integrity_check;
pragma foreign_key_check;
select type, name, tbl_name from sqlite_master order by 1, 2;
select author, title, cost from book order by id limit 10;
