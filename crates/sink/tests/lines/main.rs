//! Lines as whole: between real brokers, real stores and tables, and over those of memory.
//!
//! One program, as each would be linked with all that the sink is made of.

#[path = "../../../offsets/tests/support/mod.rs"]
mod servers;
#[path = "../support/mod.rs"]
mod support;

mod bucket;
mod layout;
mod live;
mod nearline;
mod nearline_steps;
mod nearline_stream;
mod nearline_table;
mod repair;
mod running;
mod s3;
mod schemas;
mod set_back;
mod stores;
mod success;
mod upkeep;
