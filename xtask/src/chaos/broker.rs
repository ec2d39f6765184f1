//! One broker of the cluster: a process in its namespace, on its disk. It may be down, or stand still.

use super::disk::Disk;
use super::{BROKERS, PARTITIONS, TOPIC, network};
use crate::replicas;
use crate::shell;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus, Stdio};
use std::time::Duration;

const PORT: u16 = 9092;
const ADMIN_PORT: u16 = 9644;
const ANSWER_SECONDS_MAX: u64 = 1;
/// So slow that a move between directories outlasts the beginning of the faults beside it.
const MOVE_BYTES_PER_S: u64 = 200_000;
/// For a broker that is asked to stop.
const STOP_SECONDS_MAX: u64 = 30;

/// What no broker has a reason to say, whatever happens to it.
const COMPLAINTS: [&str; 2] = ["panicked", "readers could see are cut"];

#[derive(Debug)]
pub(super) struct Broker {
    pub(super) id: usize,
    pub(super) disk: Disk,
    binary: PathBuf,
    home: PathBuf,
    process: Option<Child>,
    /// Its disk was full and not all is well since.
    is_excused: bool,
    /// What its disk gives back and was never written.
    rot: Option<Rot>,
}

/// A byte that was flipped.
#[derive(Debug)]
struct Rot {
    /// The folder's name, in whichever data directory.
    partition: OsString,
    segment: OsString,
    position: u64,
    right: u8,
}

impl Broker {
    /// A broker with a new disk; it is not started yet.
    pub(super) fn new(id: usize, binary: &Path, home: &Path) -> Result<Self, String> {
        let home = home.join(format!("broker{id}"));
        fs::create_dir_all(&home).map_err(|error| format!("{}: {error}", home.display()))?;
        let disk = Disk::make(&home)?;
        Ok(Self { id, disk, binary: binary.to_path_buf(), home, process: None, is_excused: false, rot: None })
    }

    /// `host:port` for clients and other brokers.
    pub(super) fn address(&self) -> String {
        address(self.id)
    }

    /// Where it keeps partitions; what is not of one is in the first.
    pub(super) fn dirs(&self) -> Vec<PathBuf> {
        ["data", "data-2"].map(|name| self.disk.root().join(name)).to_vec()
    }

    /// The data directory that does not have this partition, if one has it.
    pub(super) fn other_dir(&self, partition: &str) -> Option<PathBuf> {
        let folder = replicas::folder(&self.dirs(), partition.as_ref()).ok()?;
        self.dirs().into_iter().find(|dir| !folder.starts_with(dir))
    }

    pub(super) fn log(&self) -> PathBuf {
        self.home.join("broker.log")
    }

    /// Starts the process and does not wait for it.
    pub(super) fn start(&mut self) -> Result<(), String> {
        assert!(self.process.is_none(), "a broker is started while it is down");
        let voters: Vec<String> = (1..=BROKERS).map(|id| format!("{id}@{}", address(id))).collect();
        let settings = [
            format!("node.id={}", self.id),
            "cluster.id=chaos".to_owned(),
            format!("controller.quorum.voters={}", voters.join(",")),
            format!("default.replication.factor={BROKERS}"),
            "min.insync.replicas=2".to_owned(),
            format!("offsets.topic.replication.factor={BROKERS}"),
            "offsets.topic.num.partitions=4".to_owned(),
            "transaction.state.log.num.partitions=4".to_owned(),
            // A start looks at what is newer by itself; older rot has to be looked for.
            "log.flush.offset.checkpoint.interval.ms=2000".to_owned(),
            // Shorter than some faults, so that in-sync sets shrink and grow.
            "replica.lag.time.max.ms=10000".to_owned(),
            format!("replica.alter.log.dirs.io.max.bytes.per.second={MOVE_BYTES_PER_S}"),
        ];
        let dirs: Vec<String> = self.dirs().iter().map(|dir| dir.display().to_string()).collect();
        let mut command = network::inside(self.id);
        command
            .arg(&self.binary)
            .args(["dev", "--listen", &self.address()])
            .args(["--admin", &format!("{}:{ADMIN_PORT}", network::address(self.id))])
            .arg("--data-dir")
            .arg(dirs.join(","))
            .args(settings.iter().flat_map(|setting| ["--set", setting]));
        if std::env::var_os("OTTLA_LOG").is_none() {
            command.env("OTTLA_LOG", "info");
        }
        shell::note(&self.log(), "--- started\n")?;
        let log = shell::append(&self.log())?;
        let copy = log.try_clone().map_err(|error| format!("{}: {error}", self.log().display()))?;
        let child = command
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(copy)
            .spawn()
            .map_err(|error| format!("cannot run {}: {error}", shell::words(&command)))?;
        self.process = Some(child);
        Ok(())
    }

    /// kill -9.
    pub(super) fn kill(&mut self) -> Result<(), String> {
        let Some(mut process) = self.process.take() else { return Ok(()) };
        process
            .kill()
            .and_then(|()| process.wait())
            .map_err(|error| format!("cannot kill the broker {}: {error}", self.id))?;
        shell::note(&self.log(), "--- killed\n")
    }

    /// SIGTERM, and the wait for its end.
    pub(super) fn stop(&mut self) -> Result<(), String> {
        let Some(process) = &mut self.process else { return Ok(()) };
        shell::signal(process.id(), "TERM")?;
        let deadline = shell::now() + Duration::from_secs(STOP_SECONDS_MAX);
        while process.try_wait().map_err(|error| error.to_string())?.is_none() {
            if shell::now() > deadline {
                let log = self.log();
                return Err(format!("the broker {} does not stop, see {}", self.id, log.display()));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        self.process = None;
        Ok(())
    }

    /// Leaves no room on its disk. It may end over that, or take logs offline, as long as it is excused.
    pub(super) fn fill(&mut self) -> Result<(), String> {
        self.is_excused = true;
        self.disk.fill()
    }

    /// What a supervisor does for a broker whose disk was full: starts it again when it has ended, now or a while after the
    /// disk has room again, and when one of its logs is offline, which it stays until then.
    fn supervise(&mut self) -> Result<(), String> {
        if self.partitions_offline() > 0 {
            self.stop()?;
            return self.start();
        }
        if self.ended()?.is_some() { self.start() } else { Ok(()) }
    }

    /// An error if it has ended by itself and nothing excuses it; what is excused is looked after.
    pub(super) fn check_alive(&mut self) -> Result<(), String> {
        if self.is_excused {
            return self.supervise();
        }
        match self.ended()? {
            None => Ok(()),
            Some(status) => {
                Err(format!("the broker {} ended ({status}), see {}", self.id, self.log().display()))
            }
        }
    }

    /// All is well: nothing that it does from now on is excused.
    pub(super) fn expect_life(&mut self) {
        self.is_excused = false;
    }

    /// kill -9, and one byte in the middle of its oldest closed segment is another one.
    pub(super) fn kill_and_flip(&mut self) -> Result<(), String> {
        self.kill()?;
        let Some(segment) = replicas::closed_segment(&self.dirs(), TOPIC, PARTITIONS)? else {
            println!("    broker {} has no closed segment yet: it was killed, and nothing flipped", self.id);
            return Ok(());
        };
        let flip = || -> std::io::Result<(u64, u8)> {
            let mut file = File::options().read(true).write(true).open(&segment)?;
            let position = file.metadata()?.len() / 2;
            let mut byte = [0];
            file.seek(SeekFrom::Start(position))?;
            file.read_exact(&mut byte)?;
            file.seek(SeekFrom::Start(position))?;
            file.write_all(&[byte[0] ^ 1])?;
            file.sync_all()?;
            Ok((position, byte[0]))
        };
        let (position, right) = flip().map_err(|error| format!("{}: {error}", segment.display()))?;
        shell::note(&self.log(), &format!("--- flipped a byte in {}\n", segment.display()))?;
        let partition = segment.parent().and_then(Path::file_name).expect("a segment is in a folder");
        let name = segment.file_name().expect("a segment has a name");
        self.rot = Some(Rot { partition: partition.into(), segment: name.into(), position, right });
        Ok(())
    }

    /// Whether what was flipped has not been taken anew from another broker yet. Before it has, nobody else's copy may rot.
    pub(super) fn is_rotten(&self) -> bool {
        let is_right = |rot: &Rot| {
            let mut byte = [0];
            let Ok(folder) = replicas::folder(&self.dirs(), &rot.partition) else { return false };
            let read = File::open(folder.join(&rot.segment)).and_then(|mut file| {
                file.seek(SeekFrom::Start(rot.position))?;
                file.read_exact(&mut byte)
            });
            // It is shorter, or not there, while it is copied.
            read.is_ok() && byte[0] == rot.right
        };
        self.rot.as_ref().is_some_and(|rot| !is_right(rot))
    }

    /// Its process id, while it has one.
    pub(super) fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(Child::id)
    }

    /// How it has ended by itself; it counts as down then.
    fn ended(&mut self) -> Result<Option<ExitStatus>, String> {
        let Some(process) = &mut self.process else { return Ok(None) };
        let status = process.try_wait().map_err(|error| format!("cannot look after a broker: {error}"))?;
        if status.is_some() {
            self.process = None;
        }
        Ok(status)
    }

    pub(super) fn is_ready(&self) -> bool {
        self.get("/readyz")
            .is_ok_and(|answer| answer.starts_with("HTTP/1.0 200") || answer.starts_with("HTTP/1.1 200"))
    }

    /// Logs that are offline, as the broker says.
    fn partitions_offline(&self) -> u64 {
        let page = self.get("/metrics").unwrap_or_default();
        let value = page.lines().find_map(|line| line.strip_prefix("ottla_partitions_offline "));
        value.and_then(|value| value.trim().parse().ok()).unwrap_or(0)
    }

    /// Keeps its metrics beside its log.
    pub(super) fn keep_metrics(&self) {
        // One that does not answer has nothing to keep.
        let _ = self.get("/metrics").and_then(|page| fs::write(self.home.join("metrics"), page));
    }

    fn get(&self, path: &str) -> std::io::Result<String> {
        let address: SocketAddr =
            format!("{}:{ADMIN_PORT}", network::address(self.id)).parse().expect("an address of ours");
        let patience = Duration::from_secs(ANSWER_SECONDS_MAX);
        let mut stream = TcpStream::connect_timeout(&address, patience)?;
        stream.set_read_timeout(Some(patience))?;
        write!(stream, "GET {path} HTTP/1.1\r\nHost: broker\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    }

    /// How many of its replicas have moved to another directory.
    pub(super) fn moved(&self) -> Result<usize, String> {
        Ok(self.said()?.matches("has moved to another data directory").count())
    }

    fn said(&self) -> Result<String, String> {
        let path = self.log();
        let text = fs::read(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        Ok(String::from_utf8_lossy(&text).into_owned())
    }

    /// An error if it has said what no broker should.
    pub(super) fn check_log(&self) -> Result<(), String> {
        let path = self.log();
        let text = self.said()?;
        match text.lines().find(|line| COMPLAINTS.iter().any(|complaint| line.contains(complaint))) {
            None => Ok(()),
            Some(line) => Err(format!("the broker {} said: {line}; see {}", self.id, path.display())),
        }
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        // Nobody is left to tell; a process that cannot be killed is gone already.
        let _ = self.kill();
    }
}

fn address(id: usize) -> String {
    format!("{}:{PORT}", network::address(id))
}
