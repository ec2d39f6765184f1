//! File descriptors: how many the process may have, and who may take the last of them.
//!
//! The disk comes before the network: a log that cannot open a file in the middle of its work is out of service, a peer
//! that is turned away comes again. So connections never take the last descriptors, and a topic whose logs would is refused.

use std::os::fd::RawFd;

/// What a log has open at most: its active segment and two indexes.
const FILES_PER_LOG: usize = 3;

/// The process's descriptors.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Descriptors {
    limit: usize,
}

/// Logs would take descriptors that are not there.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{partitions} partitions need {needed} file descriptors, and {left} are left (ulimit -n is {limit})")]
pub(crate) struct NoDescriptors {
    partitions: usize,
    needed: usize,
    left: usize,
    limit: usize,
}

impl Descriptors {
    /// Raises the limit as far as it goes: the soft limit that shells set is for interactive programs.
    pub(crate) fn raise() -> Self {
        use rustix::process::{Resource, getrlimit, setrlimit};
        let mut limit = getrlimit(Resource::Nofile);
        limit.current = limit.maximum;
        if let Err(error) = setrlimit(Resource::Nofile, limit) {
            tracing::warn!(%error, "the limit of open files could not be raised");
        }
        let limit = getrlimit(Resource::Nofile).current.and_then(|limit| usize::try_from(limit).ok());
        Descriptors { limit: limit.unwrap_or(usize::MAX) }
    }

    /// Kept for checkpoints, new segments and whoever looks at the broker.
    fn reserve(self) -> usize {
        (self.limit / 4).clamp(32, 1024)
    }

    /// Whether a connection may stay. The kernel gives the lowest number that is free, so a high one says that those below
    /// are taken.
    pub(crate) fn admits(self, descriptor: RawFd) -> bool {
        let number = usize::try_from(descriptor).unwrap_or(0);
        number < self.limit.saturating_sub(self.reserve())
    }

    /// Whether there is room for the logs of so many new partitions. Looks at /proc: not for the data's way.
    pub(crate) fn check(self, partitions: usize) -> Result<(), NoDescriptors> {
        let taken = std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count);
        let left = self.limit.saturating_sub(taken + self.reserve());
        let needed = partitions.saturating_mul(FILES_PER_LOG);
        if needed <= left {
            Ok(())
        } else {
            Err(NoDescriptors { partitions, needed, left, limit: self.limit })
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;

    use super::*;

    #[test]
    fn the_last_descriptors_are_not_for_connections_nor_for_new_topics() {
        let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let number = usize::try_from(socket.as_raw_fd()).unwrap();
        assert!(Descriptors { limit: number + 33 }.admits(socket.as_raw_fd()));
        assert!(!Descriptors { limit: number + 32 }.admits(socket.as_raw_fd()));
        let many = Descriptors { limit: 1_000_000 };
        assert!(many.check(1_000).is_ok());
        let refused = many.check(1_000_000).unwrap_err().to_string();
        assert!(refused.starts_with("1000000 partitions need 3000000 file descriptors"), "{refused}");
    }
}
