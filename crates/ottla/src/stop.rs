//! Being asked to stop: Ctrl-C, and what service managers, `kill` and a terminal that closes send.
//! Whoever listens has the time to finish; without, the process would end in the middle of what it does.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;

use crate::failure::Failure;

/// The signals that ask for an orderly end.
pub(crate) struct Stop {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
    /// Ends with standard input, for a process whose parent may die.
    input: Option<oneshot::Receiver<()>>,
}

impl Stop {
    /// Listens from now on: no signal is missed between here and [`Stop::asked`]. The end of standard input asks too, if
    /// wanted.
    pub(crate) fn listen(ends_with_input: bool) -> Result<Self, Failure> {
        let listen = |kind| {
            signal(kind).map_err(|error| Failure::failed(format!("cannot listen to signals: {error}")))
        };
        Ok(Stop {
            interrupt: listen(SignalKind::interrupt())?,
            terminate: listen(SignalKind::terminate())?,
            hangup: listen(SignalKind::hangup())?,
            input: ends_with_input.then(end_of_input),
        })
    }

    /// Waits for one of them.
    pub(crate) async fn asked(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
            _ = self.hangup.recv() => {}
            () = ended(&mut self.input) => {}
        }
    }
}

async fn ended(input: &mut Option<oneshot::Receiver<()>>) {
    match input {
        // An error is the end as well.
        Some(input) => drop(input.await),
        None => std::future::pending().await,
    }
}

/// Reads standard input to its end on a thread: nothing else can be waited for beside it.
fn end_of_input() -> oneshot::Receiver<()> {
    let (sender, receiver) = oneshot::channel();
    std::thread::spawn(move || {
        let _ = io::copy(&mut io::stdin(), &mut io::sink());
        drop(sender);
    });
    receiver
}
