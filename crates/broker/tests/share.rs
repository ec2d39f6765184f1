//! Share groups through a socket: what the shell adds to the pure machines. Records reach one member at a time, acknowledgements
//! survive the broker, and what a member leaves behind is for the others.

mod support;

#[path = "share/dead_letters.rs"]
mod dead_letters;
#[path = "support/member.rs"]
mod member;
#[path = "share/reading.rs"]
mod reading;
#[path = "share/state.rs"]
mod state;
