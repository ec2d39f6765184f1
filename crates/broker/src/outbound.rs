//! Replies on their way to a socket: bytes at hand, and batches that still lie in files.
//!
//! Batches are read a window at a time, when the socket takes them, into a buffer that belongs to the thread. What a
//! socket does not take is dropped and read again when it does: a peer that asks for much and reads slowly holds no
//! memory, whatever it asked for. What is not in the page cache is read on the blocking pool, one window a connection.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes};
use storage::{ReadMode, StoredBatches};
use tokio::io::AsyncWrite;
use tokio::time::timeout;
use wire::{Chunk, Frame};

/// Bytes of batches that are read for one call of the kernel. Fits a second-level cache, and what a socket buffer takes.
const WINDOW_BYTES: usize = 256 * 1024;
/// Slices handed to the kernel in one call.
const SLICES_PER_WRITE_MAX: usize = 256;

thread_local! {
    static WINDOW: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// A frame, and the batches that belong in its deferred places, in their order.
#[derive(Debug)]
pub(crate) struct Reply {
    frame: Frame,
    batches: Vec<StoredBatches>,
}

impl Reply {
    pub(crate) fn new(frame: Frame, batches: Vec<StoredBatches>) -> Self {
        Reply { frame, batches }
    }
}

impl Reply {
    /// A reply without batches as bytes.
    pub(crate) fn into_bytes(self) -> Bytes {
        assert!(self.batches.is_empty(), "only fetches are answered with batches");
        self.frame.to_bytes()
    }
}

impl From<Frame> for Reply {
    fn from(frame: Frame) -> Self {
        Reply::new(frame, Vec::new())
    }
}

/// Why a reply could not be written to its end.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WriteError {
    #[error("the peer took nothing of its reply for {}s", .0.as_secs())]
    Stalled(Duration),
    #[error("batches could not be read: {0}")]
    Storage(io::Error),
    #[error(transparent)]
    Socket(#[from] io::Error),
}

/// What is to be written next.
#[derive(Debug)]
enum Piece {
    Bytes(Bytes),
    Stored(StoredBatches),
}

/// What one attempt to write came to.
enum Progress {
    Wrote,
    /// The first piece is not in memory.
    Cold,
}

/// Replies to be written, in order.
#[derive(Debug, Default)]
pub(crate) struct Outbound {
    pieces: VecDeque<Piece>,
}

impl Outbound {
    /// Puts a reply behind those that wait.
    pub(crate) fn push(&mut self, reply: Reply) {
        let mut batches = reply.batches.into_iter();
        self.pieces.extend(reply.frame.chunks.into_iter().map(|chunk| match chunk {
            Chunk::Bytes(bytes) => Piece::Bytes(bytes),
            Chunk::Deferred(len) => {
                let stored = batches.next().expect("batches for every deferred place");
                assert_eq!(stored.len(), len, "batches of the length that was told");
                Piece::Stored(stored)
            }
        }));
        assert!(batches.next().is_none(), "a deferred place for all batches");
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    /// Writes everything. The peer may be slow, but must take something every `stall_max`.
    pub(crate) async fn write_to<S: AsyncWrite + Unpin>(
        &mut self,
        socket: &mut S,
        stall_max: Duration,
    ) -> Result<(), WriteError> {
        while !self.is_empty() {
            let step = timeout(stall_max, poll_fn(|cx| self.poll_write(socket, cx))).await;
            match step.map_err(|_elapsed| WriteError::Stalled(stall_max))?? {
                Progress::Wrote => {}
                Progress::Cold => self.warm().await.map_err(WriteError::Storage)?,
            }
        }
        Ok(())
    }

    /// Hands the next pieces to the socket in one call.
    fn poll_write<S: AsyncWrite + Unpin>(
        &mut self,
        socket: &mut S,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Progress, WriteError>> {
        WINDOW.with_borrow_mut(|window| {
            window.resize(WINDOW_BYTES, 0);
            let slices = self.gather(window).map_err(WriteError::Storage)?;
            if slices.is_empty() {
                return Poll::Ready(Ok(Progress::Cold));
            }
            let written = ready!(Pin::new(socket).poll_write_vectored(cx, &slices))?;
            if written == 0 {
                return Poll::Ready(Err(WriteError::Socket(io::ErrorKind::WriteZero.into())));
            }
            self.advance(written);
            Poll::Ready(Ok(Progress::Wrote))
        })
    }

    /// The next pieces as slices, stored ones read into `window` as far as it reaches and memory has them.
    fn gather<'a>(&'a self, mut window: &'a mut [u8]) -> io::Result<Vec<IoSlice<'a>>> {
        let mut slices = Vec::with_capacity(self.pieces.len().min(SLICES_PER_WRITE_MAX));
        for piece in self.pieces.iter().take(SLICES_PER_WRITE_MAX) {
            match piece {
                Piece::Bytes(bytes) => slices.push(IoSlice::new(bytes)),
                Piece::Stored(batches) => {
                    let (read, rest) = window.split_at_mut(batches.len().min(window.len()));
                    if read.is_empty() || !batches.read_at(0, read, ReadMode::CachedOnly)? {
                        break;
                    }
                    let is_whole = read.len() == batches.len();
                    slices.push(IoSlice::new(read));
                    if !is_whole {
                        break;
                    }
                    window = rest;
                }
            }
        }
        Ok(slices)
    }

    fn advance(&mut self, mut written: usize) {
        while let Some(first) = self.pieces.front_mut() {
            let len = match first {
                Piece::Bytes(bytes) => bytes.len(),
                Piece::Stored(batches) => batches.len(),
            };
            if len > written {
                match first {
                    Piece::Bytes(bytes) => bytes.advance(written),
                    Piece::Stored(batches) => batches.advance(written),
                }
                return;
            }
            written -= len;
            self.pieces.pop_front();
        }
        assert!(written == 0, "more was written than there was");
    }

    /// Reads a window of the first piece from the disk.
    async fn warm(&mut self) -> io::Result<()> {
        let Some(Piece::Stored(batches)) = self.pieces.front_mut() else { return Ok(()) };
        let mut window = vec![0; batches.len().min(WINDOW_BYTES)];
        let stored = batches.clone();
        batches.advance(window.len());
        if batches.is_empty() {
            self.pieces.pop_front();
        }
        let read = crate::blocking::run(move || {
            stored.read_at(0, &mut window, ReadMode::Blocking)?;
            Ok::<_, io::Error>(Bytes::from(window))
        });
        self.pieces.push_front(Piece::Bytes(read.await?));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Arc;

    use storage::fault::FaultDisk;
    use storage::{Append, DataDir, DataDirOptions, Located, LogConfig, Origin, ReadLimits};
    use wire::records::{BatchBuilder, BatchOptions};
    use wire::{BrokerId, LeaderEpoch, Millis, Offset, PartitionId, TopicPartition, Uuid};

    use super::*;

    /// Takes a few bytes, then nothing for one turn, then a few more.
    #[derive(Default)]
    struct Dripping {
        taken: Vec<u8>,
        calls: usize,
    }

    impl AsyncWrite for Dripping {
        fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
            self.calls += 1;
            if self.calls.is_multiple_of(2) {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            let count = buf.len().min(1 + self.calls * 977 % 30_000);
            self.taken.extend_from_slice(&buf[..count]);
            Poll::Ready(Ok(count))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    /// Batches of values of these sizes as they lie in a log on `disk`, and what they should read as.
    fn stored(disk: &Arc<FaultDisk>, values: &[usize]) -> (StoredBatches, Bytes) {
        let options = DataDirOptions {
            node_id: BrokerId(1),
            cluster_id: None,
            new_cluster_id: "test".into(),
            new_directory_id: Uuid([1; 16]),
        };
        let dir = DataDir::open(disk.clone(), Path::new("/data"), options).unwrap();
        let partition = TopicPartition::new("t", PartitionId(0));
        let log = dir.open_log(&partition, Uuid([2; 16]), LogConfig::default(), Millis(0)).unwrap();
        for (at, size) in values.iter().enumerate() {
            let mut batch = BatchBuilder::new(BatchOptions::default());
            batch.append(Millis(1), None, Some(&vec![at as u8; *size]), &[]);
            let append = Append { leader_epoch: LeaderEpoch(0), now: Millis(1), origin: Origin::Client };
            log.append(batch.build(), append).unwrap();
        }
        let limits = ReadLimits { bytes_max: usize::MAX, upper: log.log_end(), minimum_one: true };
        let slice = log.read(Offset(0), limits).unwrap();
        let Located::Batches(batches) = slice.locate(ReadMode::Blocking).unwrap() else {
            panic!("no batches")
        };
        (batches, slice.read().unwrap())
    }

    fn frame(chunks: &[Chunk]) -> Frame {
        Frame { chunks: chunks.to_vec() }
    }

    #[tokio::test]
    async fn a_slow_peer_gets_every_byte_in_order() {
        let (head, tail) = (Bytes::from_static(b"head"), Bytes::from_static(b"tail"));
        let disks = [Arc::new(FaultDisk::new()), Arc::new(FaultDisk::new())];
        let (large, large_bytes) = stored(&disks[0], &[300_000, 10, 500_000]);
        let (small, small_bytes) = stored(&disks[1], &[5]);
        let chunks = [
            Chunk::Bytes(head.clone()),
            Chunk::Deferred(small.len()),
            Chunk::Bytes(tail.clone()),
            Chunk::Deferred(large.len()),
        ];
        let mut outbound = Outbound::default();
        outbound.push(Reply::new(frame(&chunks), vec![small, large]));
        outbound.push(frame(&[Chunk::Bytes(tail.clone())]).into());
        let mut peer = Dripping::default();
        outbound.write_to(&mut peer, Duration::from_secs(60)).await.unwrap();
        assert!(peer.taken == [head, small_bytes, tail.clone(), large_bytes, tail].concat());
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_takes_nothing_is_given_up() {
        let (mut socket, _peer) = tokio::io::duplex(10);
        let mut outbound = Outbound::default();
        outbound.push(frame(&[Chunk::Bytes(Bytes::from_static(&[0; 11]))]).into());
        let stalled = outbound.write_to(&mut socket, Duration::from_secs(7)).await;
        assert!(matches!(stalled, Err(WriteError::Stalled(_))), "{stalled:?}");
    }

    #[tokio::test]
    async fn what_is_not_in_memory_is_fetched_a_window_at_a_time() {
        let disk = Arc::new(FaultDisk::new());
        let (batches, bytes) = stored(&disk, &[WINDOW_BYTES, WINDOW_BYTES]);
        let mut outbound = Outbound::default();
        outbound.push(Reply::new(frame(&[Chunk::Deferred(batches.len())]), vec![batches]));
        outbound.warm().await.unwrap();
        let [Piece::Bytes(warm), Piece::Stored(left)] = outbound.pieces.make_contiguous() else {
            panic!("a window and the rest")
        };
        assert_eq!((warm.len(), left.len()), (WINDOW_BYTES, bytes.len() - WINDOW_BYTES));
        let mut peer = Vec::new();
        outbound.write_to(&mut peer, Duration::from_secs(60)).await.unwrap();
        assert!(peer == bytes);
    }
}
