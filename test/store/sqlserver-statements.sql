-- migrations
if schema_id(N'postern') is null exec(N'create schema [postern]');
go
CREATE TABLE [postern].[OidcMigration] ([name] nvarchar(100) not null, [appliedAt] bigint not null, CONSTRAINT [OidcMigration_pkey] PRIMARY KEY ([name]));
go

-- 0001-tokens
set xact_abort on;
begin transaction;
CREATE TABLE [postern].[OidcToken] ([id] char(43) collate Latin1_General_BIN2 not null, [model] nvarchar(64) collate Latin1_General_BIN2 not null, [payload] nvarchar(max) not null, [grantId] char(43) collate Latin1_General_BIN2 null, [uid] nvarchar(64) collate Latin1_General_BIN2 null, [userCode] nvarchar(64) collate Latin1_General_BIN2 null, [accountId] nvarchar(255) collate Latin1_General_BIN2 null, [clientId] nvarchar(255) collate Latin1_General_BIN2 null, [expiresAt] bigint not null, [consumedAt] bigint null, [version] int not null CONSTRAINT [oidctoken_version_default] DEFAULT '0', CONSTRAINT [OidcToken_pkey] PRIMARY KEY ([id]));
CREATE INDEX [oidctoken_grantid_index] ON [postern].[OidcToken] ([grantId]);
CREATE INDEX [oidctoken_uid_index] ON [postern].[OidcToken] ([uid]);
CREATE INDEX [oidctoken_usercode_index] ON [postern].[OidcToken] ([userCode]);
CREATE INDEX [oidctoken_accountid_index] ON [postern].[OidcToken] ([accountId]);
CREATE INDEX [oidctoken_clientid_index] ON [postern].[OidcToken] ([clientId]);
CREATE INDEX [oidctoken_expiresat_index] ON [postern].[OidcToken] ([expiresAt]);
insert into [postern].[OidcMigration] ([appliedAt], [name]) values (1, '0001-tokens');
commit;
go

-- 0002-accounts
set xact_abort on;
begin transaction;
CREATE TABLE [postern].[OidcUser] ([normalizedName] nvarchar(255) collate Latin1_General_BIN2 not null, [name] nvarchar(255) null, [displayName] nvarchar(255) null, [email] nvarchar(320) null, [passwordHash] nvarchar(255) null, [claims] nvarchar(max) not null, [roles] nvarchar(max) not null, [windowsName] nvarchar(255) null, [normalizedWindowsName] nvarchar(255) collate Latin1_General_BIN2 null, [disabled] bit not null, [mustChangePassword] bit not null, [createdAt] bigint not null, [updatedAt] bigint not null, [removedAt] bigint null, CONSTRAINT [OidcUser_pkey] PRIMARY KEY ([normalizedName]));
CREATE INDEX [oidcuser_normalizedwindowsname_index] ON [postern].[OidcUser] ([normalizedWindowsName]);
insert into [postern].[OidcMigration] ([appliedAt], [name]) values (1, '0002-accounts');
commit;
go

-- 0003-last-use
set xact_abort on;
begin transaction;
ALTER TABLE [postern].[OidcToken] ADD [lastUsedAt] bigint null;
insert into [postern].[OidcMigration] ([appliedAt], [name]) values (1, '0003-last-use');
commit;
go

-- 0004-external-logins
set xact_abort on;
begin transaction;
CREATE TABLE [postern].[OidcUserLogin] ([id] char(43) collate Latin1_General_BIN2 not null, [normalizedName] nvarchar(255) collate Latin1_General_BIN2 not null, [provider] nvarchar(100) not null, [issuer] nvarchar(max) not null, [subject] nvarchar(max) not null, [createdAt] bigint not null, CONSTRAINT [OidcUserLogin_pkey] PRIMARY KEY ([id]));
CREATE INDEX [oidcuserlogin_normalizedname_index] ON [postern].[OidcUserLogin] ([normalizedName]);
insert into [postern].[OidcMigration] ([appliedAt], [name]) values (1, '0004-external-logins');
commit;
go

-- 0005-directory-checks
set xact_abort on;
begin transaction;
ALTER TABLE [postern].[OidcUserLogin] ADD [checkedAt] bigint null;
insert into [postern].[OidcMigration] ([appliedAt], [name]) values (1, '0005-directory-checks');
commit;
go

-- 0006-keys
set xact_abort on;
begin transaction;
CREATE TABLE [postern].[OidcKey] ([id] varchar(43) collate Latin1_General_BIN2 not null, [purpose] varchar(20) collate Latin1_General_BIN2 not null, [algorithm] varchar(20) collate Latin1_General_BIN2 not null, [generation] int not null, [payload] nvarchar(max) not null, [createdAt] bigint not null, [activeAt] bigint not null, [revokedAt] bigint null, [longestLifetime] bigint not null, CONSTRAINT [OidcKey_pkey] PRIMARY KEY ([id]));
ALTER TABLE [postern].[OidcKey] ADD CONSTRAINT [oidckey_purpose_algorithm_generation_unique] UNIQUE ([purpose], [algorithm], [generation]);
insert into [postern].[OidcMigration] ([appliedAt], [name]) values (1, '0006-keys');
commit;
go

-- 0007-last-uses
set xact_abort on;
begin transaction;
CREATE TABLE [postern].[OidcLastUse] ([kind] nvarchar(16) not null, [name] nvarchar(255) collate Latin1_General_BIN2 not null, [usedAt] bigint not null, CONSTRAINT [OidcLastUse_pkey] PRIMARY KEY ([kind], [name]));
insert into [postern].[OidcMigration] ([appliedAt], [name]) values (1, '0007-last-uses');
commit;
go

-- 0008-guesses
set xact_abort on;
begin transaction;
CREATE TABLE [postern].[OidcGuess] ([id] char(43) collate Latin1_General_BIN2 not null, [subject] char(43) collate Latin1_General_BIN2 null, [failures] int not null, [freeTries] int not null, [delaySeconds] int not null, [longestSeconds] int not null, [openAt] bigint not null, [expiresAt] bigint not null, CONSTRAINT [OidcGuess_pkey] PRIMARY KEY ([id]));
CREATE INDEX [oidcguess_subject_index] ON [postern].[OidcGuess] ([subject]);
CREATE INDEX [oidcguess_expiresat_index] ON [postern].[OidcGuess] ([expiresAt]);
insert into [postern].[OidcMigration] ([appliedAt], [name]) values (1, '0008-guesses');
commit;
go

-- 0009-password-changes
set xact_abort on;
begin transaction;
ALTER TABLE [postern].[OidcUser] ADD [passwordMark] nvarchar(43) null, [passwordHistory] nvarchar(max) null;
insert into [postern].[OidcMigration] ([appliedAt], [name]) values (1, '0009-password-changes');
commit;
go

-- 0010-fewer-index-entries
set xact_abort on;
begin transaction;
DROP INDEX [oidctoken_clientid_index] ON [postern].[OidcToken];
insert into [postern].[OidcMigration] ([appliedAt], [name]) values (1, '0010-fewer-index-entries');
commit;
go

-- what the server needs, and nothing else
grant select, insert, update, delete on schema::[postern] to [postern];
go
;

-- tokens
select [model], [payload], [accountId], [clientId], [expiresAt], [consumedAt], [version] from [postern].[OidcToken] where [id] = @p0 and [model] = @p1 and [expiresAt] > @p2;
select top (@p0) [model], [payload], [accountId], [clientId], [expiresAt], [consumedAt], [version] from [postern].[OidcToken] where [uid] = @p1 and [model] = @p2 and [expiresAt] > @p3 order by [expiresAt] desc;
select [t].[model], [t].[payload], [t].[accountId], [t].[clientId], [t].[expiresAt], [t].[consumedAt], [t].[version], [t].[grantId], [g].[id] as [liveGrantId] from [postern].[OidcToken] as [t] left join [postern].[OidcToken] as [g] on [g].[id] = [t].[grantId] and [g].[model] = @p0 and [g].[expiresAt] > @p1 where [t].[id] = @p2 and [t].[expiresAt] > @p3;
select [model] from [postern].[OidcToken] where [id] in (@p0, @p1) and [expiresAt] > @p2;
insert into [postern].[OidcToken] ([accountId], [clientId], [expiresAt], [grantId], [id], [model], [payload], [uid], [userCode], [version]) values (@p0, @p1, @p2, @p3, @p4, @p5, @p6, @p7, @p8, @p9);
update [postern].[OidcToken] set [payload] = @p0, [accountId] = @p1, [expiresAt] = @p2, [version] = [version] + 1 where [id] = @p3 and [model] = @p4;select @@rowcount;
update [postern].[OidcToken] set [payload] = @p0, [accountId] = @p1, [expiresAt] = @p2, [version] = [version] + 1 where [id] = @p3 and [model] = @p4 and [version] = @p5;select @@rowcount;
update [postern].[OidcToken] set [expiresAt] = @p0, [lastUsedAt] = @p1 where [id] = @p2 and [model] = @p3 and [consumedAt] is null;select @@rowcount;
update [postern].[OidcToken] set [consumedAt] = @p0 where [id] = @p1 and [model] = @p2 and [consumedAt] is null;select @@rowcount;
delete from [postern].[OidcToken] where [id] = @p0 and [model] = @p1;select @@rowcount;
update [postern].[OidcToken] set [expiresAt] = @p0, [uid] = @p1 where [id] = @p2 and [model] = @p3 and ([expiresAt] <= @p4 or [uid] = @p5);select @@rowcount;
delete from [postern].[OidcToken] where [uid] = @p0 and [model] = @p1;select @@rowcount;
select [payload] from [postern].[OidcToken] where [model] = @p0 and ([userCode] = @p1 or [accountId] = @p2) and [expiresAt] > @p3;
delete from [postern].[OidcToken] where [grantId] = @p0 and [model] = @p1;select @@rowcount;
delete from [postern].[OidcToken] where [grantId] = @p0 or [id] = @p1;select @@rowcount;
delete from [postern].[OidcToken] where [accountId] = @p0 and not [model] = @p1 and not [id] = @p2;select @@rowcount;
delete from [postern].[OidcToken] where [accountId] = @p0 and [model] = @p1;select @@rowcount;
select [t].[payload], [t].[grantId], [t].[clientId], [t].[accountId], [t].[expiresAt], [t].[lastUsedAt] from [postern].[OidcToken] as [t] inner join [postern].[OidcToken] as [g] on [g].[id] = [t].[grantId] and [g].[model] = @p0 and [g].[expiresAt] > @p1 where [t].[model] = @p2 and [t].[consumedAt] is null and [t].[expiresAt] > @p3 order by [t].[accountId] asc, [t].[clientId] asc, [t].[expiresAt] asc;

-- last uses
update [postern].[OidcLastUse] set [usedAt] = @p0 where [kind] = @p1 and [name] = @p2 and [usedAt] < @p3;select @@rowcount;
select [usedAt] from [postern].[OidcLastUse] where [kind] = @p0 and [name] = @p1;
select [normalizedName] from [postern].[OidcUser] where [normalizedName] = @p0 and [removedAt] is null;
insert into [postern].[OidcLastUse] ([kind], [name], [usedAt]) values (@p0, @p1, @p2);
select [name], [usedAt] from [postern].[OidcLastUse] where [kind] = @p0;

-- guesses
select [id], [failures], [delaySeconds], [openAt], [expiresAt] from [postern].[OidcGuess] where [id] in (@p0, @p1, @p2, @p3, @p4) and [expiresAt] > @p5;
select top (@p0) [id], [failures], [delaySeconds], [openAt], [expiresAt] from [postern].[OidcGuess] where [expiresAt] > @p1 order by [expiresAt] desc;
update [postern].[OidcGuess] set [failures] = case when [failures] + 1 - (cast(@p0 as bigint) - [expiresAt] + 86400) * [freeTries] / 86400 < 1 then 1 when [failures] + 1 - (cast(@p1 as bigint) - [expiresAt] + 86400) * [freeTries] / 86400 < [freeTries] then [failures] + 1 - (cast(@p2 as bigint) - [expiresAt] + 86400) * [freeTries] / 86400 else [freeTries] end, [delaySeconds] = case when [failures] + 1 - (cast(@p3 as bigint) - [expiresAt] + 86400) * [freeTries] / 86400 < [freeTries] then 0 when [delaySeconds] = 0 then 1 when [delaySeconds] * 2 > [longestSeconds] then [longestSeconds] else [delaySeconds] * 2 end, [openAt] = @p4 + case when [failures] + 1 - (cast(@p5 as bigint) - [expiresAt] + 86400) * [freeTries] / 86400 < [freeTries] then 0 when [delaySeconds] = 0 then 1 when [delaySeconds] * 2 > [longestSeconds] then [longestSeconds] else [delaySeconds] * 2 end, [expiresAt] = @p6 where [id] in (@p7, @p8, @p9, @p10, @p11) and [expiresAt] > @p12 and ([openAt] <= @p13 or [id] in (@p14, @p15));select @@rowcount;
update [postern].[OidcGuess] set [failures] = case when [failures] > 0 then 0 else [failures] end, [delaySeconds] = @p0 where [id] = @p1 and [openAt] <= @p2;select @@rowcount;
delete from [postern].[OidcGuess] where [id] in (@p0, @p1, @p2, @p3, @p4) and [expiresAt] <= @p5;select @@rowcount;
delete from [postern].[OidcGuess] where [subject] = @p0;select @@rowcount;
insert into [postern].[OidcGuess] ([delaySeconds], [expiresAt], [failures], [freeTries], [id], [longestSeconds], [openAt], [subject]) values (@p0, @p1, @p2, @p3, @p4, @p5, @p6, @p7), (@p8, @p9, @p10, @p11, @p12, @p13, @p14, @p15), (@p16, @p17, @p18, @p19, @p20, @p21, @p22, @p23), (@p24, @p25, @p26, @p27, @p28, @p29, @p30, @p31), (@p32, @p33, @p34, @p35, @p36, @p37, @p38, @p39);

-- cleanup
delete from [postern].[OidcToken] where [id] in (select top (@p0) [id] from [postern].[OidcToken] where [expiresAt] <= @p1 order by [expiresAt] asc);select @@rowcount;
delete from [postern].[OidcGuess] where [id] in (select top (@p0) [id] from [postern].[OidcGuess] where [expiresAt] <= @p1 order by [expiresAt] asc);select @@rowcount;

-- accounts
select [normalizedName], [name], [displayName], [email], [passwordHash], [claims], [roles], [windowsName], [disabled], [mustChangePassword], [createdAt], [updatedAt], [removedAt], [passwordMark], [passwordHistory] from [postern].[OidcUser] where [normalizedName] = @p0;
select top (@p0) * from [postern].[OidcUser] where [normalizedWindowsName] = @p1;
select top (@p0) * from [postern].[OidcUser] where [normalizedWindowsName] = @p1 and not [normalizedName] = @p2;
insert into [postern].[OidcUser] ([claims], [createdAt], [disabled], [displayName], [email], [mustChangePassword], [name], [normalizedName], [normalizedWindowsName], [passwordHash], [passwordHistory], [passwordMark], [removedAt], [roles], [updatedAt], [windowsName]) values (@p0, @p1, @p2, @p3, @p4, @p5, @p6, @p7, @p8, @p9, @p10, @p11, @p12, @p13, @p14, @p15);
update [postern].[OidcUser] set [passwordHash] = @p0, [passwordMark] = @p1, [passwordHistory] = @p2, [mustChangePassword] = @p3, [updatedAt] = @p4 where [normalizedName] = @p5 and [removedAt] is null;select @@rowcount;
update [postern].[OidcUser] set [disabled] = @p0, [updatedAt] = @p1 where [normalizedName] = @p2 and [removedAt] is null;select @@rowcount;
update [postern].[OidcUser] set [displayName] = @p0, [email] = @p1, [roles] = @p2, [updatedAt] = @p3 where [normalizedName] = @p4 and [removedAt] is null;select @@rowcount;
update [postern].[OidcUser] set [name] = @p0, [displayName] = @p1, [email] = @p2, [passwordHash] = @p3, [passwordMark] = @p4, [passwordHistory] = @p5, [claims] = @p6, [roles] = @p7, [windowsName] = @p8, [normalizedWindowsName] = @p9, [disabled] = @p10, [mustChangePassword] = @p11, [removedAt] = @p12, [updatedAt] = @p13 where [normalizedName] = @p14 and [removedAt] is null;select @@rowcount;
delete from [postern].[OidcUserLogin] where [normalizedName] = @p0;select @@rowcount;
delete from [postern].[OidcLastUse] where [kind] in (@p0, @p1) and [name] = @p2;select @@rowcount;
select * from [postern].[OidcUser] where [removedAt] is null order by [normalizedName] asc;
select top (@p0) [normalizedName] from [postern].[OidcUser];
insert into [postern].[OidcUser] ([claims], [createdAt], [disabled], [displayName], [email], [mustChangePassword], [name], [normalizedName], [normalizedWindowsName], [passwordHash], [passwordHistory], [passwordMark], [removedAt], [roles], [updatedAt], [windowsName]) values (@p0, @p1, @p2, @p3, @p4, @p5, @p6, @p7, @p8, @p9, @p10, @p11, @p12, @p13, @p14, @p15), (@p16, @p17, @p18, @p19, @p20, @p21, @p22, @p23, @p24, @p25, @p26, @p27, @p28, @p29, @p30, @p31);

-- links to identities elsewhere
select top (@p0) [normalizedName], [provider] from [postern].[OidcUserLogin] where [id] = @p1;
insert into [postern].[OidcUserLogin] ([createdAt], [id], [issuer], [normalizedName], [provider], [subject]) values (@p0, @p1, @p2, @p3, @p4, @p5);
select [id], [issuer], [subject] from [postern].[OidcUserLogin] where [normalizedName] = @p0;
delete from [postern].[OidcUserLogin] where [id] in (@p0);select @@rowcount;
update [postern].[OidcUserLogin] set [provider] = @p0 where [id] = @p1 and [normalizedName] = @p2;select @@rowcount;
select [login].[issuer], [login].[subject], [login].[checkedAt] from [postern].[OidcUserLogin] as [login] inner join [postern].[OidcUser] as [user] on [user].[normalizedName] = [login].[normalizedName] where [login].[normalizedName] = @p0 and [user].[passwordHash] is null and not [login].[provider] = @p1;
select distinct [normalizedName], [provider] from [postern].[OidcUserLogin] where not [provider] = @p0 order by [provider] asc;
update [postern].[OidcUserLogin] set [checkedAt] = @p0 where [id] = @p1;select @@rowcount;
delete from [postern].[OidcUserLogin] where [normalizedName] = @p0;select @@rowcount;
delete from [postern].[OidcUserLogin] where [id] = @p0 and [provider] = @p1;select @@rowcount;
update [postern].[OidcUserLogin] set [provider] = @p0 where [id] = @p1;select @@rowcount;

-- keys
insert into [postern].[OidcKey] ([activeAt], [algorithm], [createdAt], [generation], [id], [longestLifetime], [payload], [purpose], [revokedAt]) values (@p0, @p1, @p2, @p3, @p4, @p5, @p6, @p7, @p8);
select * from [postern].[OidcKey] order by [purpose] asc, [algorithm] asc, [generation] asc;
update [postern].[OidcKey] set [payload] = @p0 where [id] = @p1 and [payload] = @p2;select @@rowcount;
update [postern].[OidcKey] set [activeAt] = @p0 where [id] = @p1 and [revokedAt] is null;select @@rowcount;
update [postern].[OidcKey] set [longestLifetime] = @p0 where [id] in (@p1) and [longestLifetime] < @p2;select @@rowcount;
update [postern].[OidcKey] set [revokedAt] = @p0 where [id] = @p1 and ([revokedAt] is null or [revokedAt] > @p2);select @@rowcount;
delete from [postern].[OidcKey] where [id] in (@p0);select @@rowcount;

