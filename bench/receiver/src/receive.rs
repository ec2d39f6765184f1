//! One thread per connection: recv into a buffer, CRC-32C over it, append it to the file.
//! With `flush`, one more thread calls fdatasync back to back while there are unsynced bytes: the best that any group flush
//! can do, since nobody waits for it. It ends when the last connection closes and never holds more than one buffer each.

use std::error::Error;
use std::fs::File;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// As much as a socket buffer usually holds; larger buffers measured no better.
const BUFFER_BYTES: usize = 256 * 1024;
const IDLE_PAUSE: Duration = Duration::from_micros(200);
/// The kernel accounts a process's time in these.
const TICKS_PER_SECOND: f64 = 100.0;

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    PageCache,
    Flush,
}

pub fn receive(listen: &str, file: &str, durability: Durability) -> Result<String, Box<dyn Error>> {
    let file = File::options().create(true).append(true).open(file)?;
    let listener = TcpListener::bind(listen)?;
    println!("listening {}", listener.local_addr()?);
    let (received, checksum) = (AtomicU64::new(0), AtomicU64::new(0));
    let (open, done) = (AtomicUsize::new(0), AtomicBool::new(false));
    let mut first_byte_at = None;

    thread::scope(|scope| -> Result<(), Box<dyn Error>> {
        if durability == Durability::Flush {
            scope.spawn(|| flush_while_dirty(&file, &received, &done));
        }
        listener.set_nonblocking(true)?;
        loop {
            match listener.accept() {
                Ok((stream, _)) => {
                    first_byte_at.get_or_insert_with(Instant::now);
                    stream.set_nonblocking(false)?;
                    open.fetch_add(1, Ordering::SeqCst);
                    let (file, received, checksum, open) = (&file, &received, &checksum, &open);
                    scope.spawn(move || {
                        if let Err(error) = take(stream, file, received, checksum) {
                            eprintln!("receive: {error}");
                        }
                        open.fetch_sub(1, Ordering::SeqCst);
                    });
                }
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                    if first_byte_at.is_some() && open.load(Ordering::SeqCst) == 0 {
                        break;
                    }
                    thread::sleep(Duration::from_millis(5));
                }
                Err(error) => return Err(error.into()),
            }
        }
        done.store(true, Ordering::SeqCst);
        Ok(())
    })?;

    let seconds = first_byte_at.map_or(0.0, |begin| begin.elapsed().as_secs_f64());
    Ok(format!(
        "bytes={} seconds={seconds:.4} cpu_seconds={:.3} checksum={:08x}",
        received.into_inner(),
        cpu_seconds()?,
        checksum.into_inner()
    ))
}

fn take(
    mut stream: TcpStream,
    mut file: &File,
    received: &AtomicU64,
    checksum: &AtomicU64,
) -> Result<(), Box<dyn Error>> {
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        let count = stream.read(&mut buffer)?;
        if count == 0 {
            return Ok(());
        }
        let bytes = &buffer[..count];
        // Kept and printed, so that the checksum is work that must be done.
        checksum.fetch_xor(u64::from(crc32c::crc32c(bytes)), Ordering::Relaxed);
        file.write_all(bytes)?;
        received.fetch_add(count as u64, Ordering::SeqCst);
    }
}

fn flush_while_dirty(file: &File, received: &AtomicU64, done: &AtomicBool) {
    let mut flushed = 0;
    loop {
        let last_look = done.load(Ordering::SeqCst);
        let written = received.load(Ordering::SeqCst);
        if written > flushed {
            if let Err(error) = file.sync_data() {
                eprintln!("fdatasync: {error}");
                return;
            }
            flushed = written;
        } else if last_look {
            return;
        } else {
            thread::sleep(IDLE_PAUSE);
        }
    }
}

/// User and system time of this process, threads included, from the same place where the caller reads a broker's.
fn cpu_seconds() -> Result<f64, Box<dyn Error>> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let after_name = stat.rsplit_once(')').ok_or("no name in /proc/self/stat")?.1;
    let ticks: Vec<f64> =
        after_name.split_whitespace().skip(11).take(2).map(str::parse).collect::<Result<_, _>>()?;
    Ok(ticks.iter().sum::<f64>() / TICKS_PER_SECOND)
}
