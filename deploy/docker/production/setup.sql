-- Run by sqlcmd at each start, which takes $(POSTERN_PASSWORD) from its environment.
set nocount on;
if db_id(N'postern') is null create database postern;
go
if (select is_read_committed_snapshot_on from sys.databases where name = N'postern') = 0
  alter database postern set read_committed_snapshot on with rollback immediate;
go
if suser_id(N'postern') is null
  create login postern with password = N'$(POSTERN_PASSWORD)', default_database = postern;
go
use postern;
go
if user_id(N'postern') is null create user postern for login postern;
go
-- Its own schema, in which it makes its tables at the first start, and nothing else.
if schema_id(N'postern') is null exec(N'create schema postern authorization postern');
grant create table to postern;
go
