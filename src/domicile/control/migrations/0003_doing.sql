-- What whoever carries a move is at, where that lasts and no wave's figures tell of it: a sentence without any value of a row.
alter table domicile_control.move add column doing text not null default '';
