-- Values that one subject may have at all sites together: an e-mail address, a phone number. Keyed hashes only.
create table domicile_directory.unique_value (
    dataset     text not null,
    name        text not null,
    value       bytea not null check (octet_length(value) = 16),
    claimant    bytea not null check (octet_length(claimant) = 16),
    reserved_at timestamptz not null default now(),
    primary key (dataset, name, value)
);
create index unique_value_claimant on domicile_directory.unique_value (dataset, claimant);
