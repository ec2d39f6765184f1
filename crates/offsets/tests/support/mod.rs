//! Real stores for tests: processes of their own on free ports, in directories that go with the test.

// Each test binary compiles this for itself and uses its own part of it.
#![allow(dead_code, unreachable_pub)]

use std::fs::{self, File};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use offsets::{PostgresStore, RedisStore, StoreError};
use tempfile::TempDir;

/// For a server to answer; a start after a kill replays its log.
const START_MAX: Duration = Duration::from_secs(60);
const LOOK_AGAIN_AFTER: Duration = Duration::from_millis(20);

/// A Redis that writes each command to its append-only file before it answers.
pub struct Redis {
    dir: TempDir,
    port: u16,
    process: Child,
}

impl Redis {
    pub async fn start() -> Self {
        let dir = TempDir::new().expect("a directory can be made");
        let port = free_port();
        let process = Self::run(dir.path(), port);
        let redis = Self { dir, port, process };
        redis.store().await;
        redis
    }

    fn run(dir: &Path, port: u16) -> Child {
        let log =
            File::options().create(true).append(true).open(dir.join("log")).expect("a log can be written");
        Command::new("redis-server")
            .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", ""])
            .args(["--appendonly", "yes", "--appendfsync", "always", "--dir"])
            .arg(dir)
            .stdin(Stdio::null())
            .stdout(log)
            .spawn()
            .expect("redis-server is installed (on Debian: apt-get install redis-server)")
    }

    pub fn address(&self) -> String {
        format!("redis://127.0.0.1:{}/", self.port)
    }

    /// A store in it, once it answers.
    pub async fn store(&self) -> RedisStore {
        let address = self.address();
        once_there(|| RedisStore::connect(&address)).await
    }

    /// Does what somebody does by hand.
    pub async fn command(&self, words: &[&str]) {
        let client = redis::Client::open(self.address()).expect("the address is one");
        let mut connection = client.get_multiplexed_async_connection().await.expect("it answers");
        let (name, arguments) = words.split_first().expect("a command has a name");
        redis::cmd(name).arg(arguments).exec_async(&mut connection).await.expect("it does it");
    }

    /// Asks something by hand.
    pub async fn ask<T: redis::FromRedisValue>(&self, words: &[&str]) -> T {
        let client = redis::Client::open(self.address()).expect("the address is one");
        let mut connection = client.get_multiplexed_async_connection().await.expect("it answers");
        let (name, arguments) = words.split_first().expect("a command has a name");
        redis::cmd(name).arg(arguments).query_async(&mut connection).await.expect("it answers this")
    }

    /// kill -9, and a new start on the same directory.
    pub async fn kill_and_restart(&mut self) {
        end(&mut self.process);
        self.process = Self::run(self.dir.path(), self.port);
        self.store().await;
    }

    /// What is on its disk now.
    pub fn copy_of_its_files(&self) -> TempDir {
        let copy = TempDir::new().expect("a directory can be made");
        copy_files(&self.dir.path().join(APPENDED), copy.path());
        copy
    }

    /// kill -9, and a new start with files as they were before, as after a loss of what had not been flushed.
    pub async fn kill_and_set_back(&mut self, copy: &TempDir) {
        end(&mut self.process);
        let appended = self.dir.path().join(APPENDED);
        fs::remove_dir_all(&appended).expect("the directory is ours");
        fs::create_dir(&appended).expect("a directory can be made");
        copy_files(copy.path(), &appended);
        self.process = Self::run(self.dir.path(), self.port);
        self.store().await;
    }

    /// kill -9, and a new start without the last bytes of what it has appended, wherever that cuts it.
    pub async fn kill_and_cut(&mut self, bytes: u64) {
        end(&mut self.process);
        let appended = fs::read_dir(self.dir.path().join(APPENDED)).expect("the directory is there");
        let newest = appended.map(|file| file.expect("it can be read").path());
        let newest = newest.filter(|path| path.to_string_lossy().contains(".incr.")).max();
        let file = File::options().write(true).open(newest.expect("it has appended")).expect("it is ours");
        let len = file.metadata().expect("it is there").len();
        file.set_len(len.saturating_sub(bytes)).expect("a file can be cut");
        self.process = Self::run(self.dir.path(), self.port);
        self.store().await;
    }
}

/// Where Redis puts its append-only files.
const APPENDED: &str = "appendonlydir";

fn copy_files(from: &Path, to: &Path) {
    for file in fs::read_dir(from).expect("the directory is there") {
        let file = file.expect("it can be read");
        fs::copy(file.path(), to.join(file.file_name())).expect("a file can be copied");
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        end(&mut self.process);
    }
}

/// A PostgreSQL as it comes, with fsync.
pub struct Postgres {
    /// Outlives the server, which writes there.
    dir: TempDir,
    port: u16,
    process: Child,
}

impl Postgres {
    pub async fn start() -> Self {
        let dir = TempDir::new().expect("a directory can be made");
        let data = dir.path().join("data");
        fs::create_dir(&data).expect("a directory can be made");
        if is_root() {
            // PostgreSQL refuses to run as root. Its own user has to get through to its files.
            let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
            fs::set_permissions(dir.path(), mode).expect("the directory is ours");
            let chown = Command::new("chown").arg("postgres").arg(&data).status().expect("chown runs");
            assert!(chown.success(), "there is a user postgres where PostgreSQL was installed by Debian");
        }
        let made = Self::program("initdb")
            .args(["--auth=trust", "--username=reader", "--encoding=UTF8", "--no-instructions", "-D"])
            .arg(&data)
            .stdout(Stdio::null())
            .status()
            .expect("initdb runs");
        assert!(made.success(), "a PostgreSQL can be made");
        let port = free_port();
        let process = Self::run(dir.path(), port);
        let postgres = Self { dir, port, process };
        postgres.store().await;
        postgres
    }

    fn run(dir: &Path, port: u16) -> Child {
        let log =
            File::options().create(true).append(true).open(dir.join("log")).expect("a log can be written");
        Self::program("postgres")
            .args(["-p", &port.to_string(), "-h", "127.0.0.1", "-c", "unix_socket_directories=", "-D"])
            .arg(dir.join("data"))
            .stdin(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("postgres runs")
    }

    fn program(name: &str) -> Command {
        let program = postgres_programs().join(name);
        match is_root() {
            true => {
                let mut command = Command::new("setpriv");
                command.args(["--reuid=postgres", "--regid=postgres", "--clear-groups"]).arg(program);
                command
            }
            false => Command::new(program),
        }
    }

    pub fn address(&self) -> String {
        format!("host=127.0.0.1 port={} user=reader dbname=postgres connect_timeout=5", self.port)
    }

    pub fn url(&self) -> String {
        format!("postgres://reader@127.0.0.1:{}/postgres", self.port)
    }

    /// A store in it, once it answers.
    pub async fn store(&self) -> PostgresStore {
        let address = self.address();
        once_there(|| PostgresStore::connect(&address)).await
    }

    /// A connection of the user's own.
    pub async fn client(&self) -> tokio_postgres::Client {
        let (client, connection) =
            tokio_postgres::connect(&self.address(), tokio_postgres::NoTls).await.expect("it answers");
        tokio::spawn(connection);
        client
    }

    /// kill -9 of the server, whose processes end when they notice, and a new start on the same directory.
    pub async fn kill_and_restart(&mut self) {
        end(&mut self.process);
        let deadline = tokio::time::Instant::now() + START_MAX;
        self.process = Self::run(self.dir.path(), self.port);
        while PostgresStore::connect(&self.address()).await.is_err() {
            assert!(tokio::time::Instant::now() < deadline, "the server does not answer");
            // While one of the old processes is left, a new server does not start.
            if self.process.try_wait().is_ok_and(|ended| ended.is_some()) {
                self.process = Self::run(self.dir.path(), self.port);
            }
            tokio::time::sleep(LOOK_AGAIN_AFTER).await;
        }
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        end(&mut self.process);
    }
}

/// Debian does not put them on the path.
fn postgres_programs() -> PathBuf {
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let newest =
        versions.map(|version| version.path().join("bin")).filter(|bin| bin.join("initdb").exists()).max();
    newest.expect("PostgreSQL is installed (on Debian: apt-get install postgresql)")
}

fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|own| std::os::unix::fs::MetadataExt::uid(&own) == 0)
}

fn free_port() -> u16 {
    let socket = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    socket.local_addr().expect("it is bound").port()
}

fn end(process: &mut Child) {
    // It may be gone already.
    let _ = process.kill();
    let _ = process.wait();
}

async fn once_there<T, F: Future<Output = Result<T, StoreError>>>(mut connect: impl FnMut() -> F) -> T {
    let deadline = tokio::time::Instant::now() + START_MAX;
    loop {
        match connect().await {
            Ok(store) => return store,
            Err(error) => {
                assert!(tokio::time::Instant::now() < deadline, "the server does not answer: {error}")
            }
        }
        tokio::time::sleep(LOOK_AGAIN_AFTER).await;
    }
}
