//! Record formats: the percent notation that `consume` prints with and `produce` reads with.
//!
//! One parser ([`Format::parse`]) serves both directions, so a format that prints a record also reads it
//! back. The notation is rpk's (`%k %v\n`, `%V{big32}`, `%h{%k=%v }`); what is not supported is refused with
//! the reason when the command starts, never in the middle of a stream.

mod spec;
mod print;
mod json;
mod read;

pub(crate) use print::{Printed, Printer};
pub(crate) use read::{InputRecord, ReadError, RecordReader};
pub(crate) use spec::Format;
