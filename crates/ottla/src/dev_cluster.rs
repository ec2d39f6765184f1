//! `ottla dev --brokers N`: a cluster of real processes on one machine, for trying out what happens when one of them dies.
//!
//! Each broker is this program again with a directory and ports of its own. They stop when this process does, in whatever way
//! it ends: their standard input ends with it. One that is killed is started again after a while; what it prints is shown
//! under its number.

use std::collections::BTreeMap;
use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use broker::settings::HostPort;
use client::{Environment, TokioEnvironment};
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use wire::Uuid;

use crate::failure::Failure;
use crate::node::{DEV_ADMIN, DEV_DATA_DIR, DEV_LISTEN, DevArgs};
use crate::output;
use crate::stop::Stop;

/// Time to look at a cluster that lacks a broker, before the broker comes back.
const RESTART_AFTER: Duration = Duration::from_secs(5);
/// How long a broker may take to stop.
const STOP_MAX: Duration = Duration::from_secs(20);
/// What `ottla` says when its settings or its directory cannot be used: starting it again would not help.
const REFUSED: i32 = 2;

/// One broker of the cluster.
#[derive(Debug, Clone)]
struct Member {
    id: u16,
    data_dir: PathBuf,
    listen: HostPort,
    admin: HostPort,
}

/// What becomes of a member.
enum Event {
    Ready {
        id: u16,
    },
    Ended {
        id: u16,
        status: ExitStatus,
    },
    /// It cannot be started.
    Refused {
        id: u16,
    },
}

/// Runs the cluster until a signal stops it.
pub(crate) fn run(args: &DevArgs) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::failed(format!("cannot start: {error}")))?;
    runtime.block_on(async {
        let mut stop = Stop::listen(false)?;
        let begun = Instant::now();
        let data_dir = args.data_dir.clone().unwrap_or_else(|| PathBuf::from(DEV_DATA_DIR));
        let members = members(args, &data_dir)?;
        let commands = commands(args, &data_dir, &members)?;
        let (sender, mut events) = mpsc::channel(64);
        let (stopping, _) = watch::channel(false);
        let mut supervised = JoinSet::new();
        for (member, command) in members.iter().zip(commands) {
            supervised.spawn(supervise(member.id, command, sender.clone(), stopping.subscribe()));
        }
        let outcome = tokio::select! {
            () = stop.asked() => Ok(()),
            outcome = report(&members, &data_dir, begun, &mut events) => outcome,
        };
        stopping.send_replace(true);
        while supervised.join_next().await.is_some() {}
        outcome
    })
}

/// Says what happens, until a broker cannot be started at all.
async fn report(
    members: &[Member],
    data_dir: &Path,
    begun: Instant,
    events: &mut mpsc::Receiver<Event>,
) -> Result<(), Failure> {
    let mut ready: BTreeMap<u16, bool> = members.iter().map(|member| (member.id, false)).collect();
    let mut announced = false;
    while let Some(event) = events.recv().await {
        match event {
            Event::Ready { id } => {
                ready.insert(id, true);
                if announced {
                    eprintln!("[{id}] broker {id} is back");
                } else if ready.values().all(|ready| *ready) {
                    announced = true;
                    output::print(&banner(members, data_dir, begun.elapsed().as_millis()))?;
                }
            }
            Event::Ended { id, status } => {
                ready.insert(id, false);
                eprintln!(
                    "[{id}] broker {id} has ended ({status}); it is started again in {} s",
                    RESTART_AFTER.as_secs()
                );
            }
            Event::Refused { id } => {
                return Err(Failure::failed(format!("broker {id} cannot be started: it says why above")));
            }
        }
    }
    Ok(())
}

/// Keeps one broker running until `stopping` turns true.
async fn supervise(
    id: u16,
    mut command: Command,
    events: mpsc::Sender<Event>,
    mut stopping: watch::Receiver<bool>,
) {
    loop {
        let Ok(mut child) = command.spawn() else {
            let _ = events.send(Event::Refused { id }).await;
            return;
        };
        // Held: waiting for a child closes what it still has.
        let stdin = child.stdin.take();
        let stdout = child.stdout.take().expect("standard output was piped");
        let stderr = child.stderr.take().expect("standard error was piped");
        let (ready, told) = (events.clone(), tokio::spawn(show(id, stderr)));
        let announced = tokio::spawn(async move {
            if let Ok(Some(_)) = BufReader::new(stdout).lines().next_line().await {
                let _ = ready.send(Event::Ready { id }).await;
            }
        });
        tokio::select! {
            status = child.wait() => {
                let _ = told.await;
                let _ = announced.await;
                let event = match status {
                    Ok(status) if status.code() != Some(REFUSED) => Event::Ended { id, status },
                    _ => Event::Refused { id },
                };
                let is_over = matches!(event, Event::Refused { .. });
                let _ = events.send(event).await;
                if is_over {
                    return;
                }
            }
            () = asked_to_stop(&mut stopping) => {
                drop(stdin);
                return stop(child).await;
            }
        }
        tokio::select! {
            () = sleep(RESTART_AFTER) => {}
            () = asked_to_stop(&mut stopping) => return,
        }
    }
}

async fn asked_to_stop(stopping: &mut watch::Receiver<bool>) {
    // An error says that the sender is gone, and with it the cluster.
    let _ = stopping.wait_for(|stopping| *stopping).await;
}

/// Waits for a broker whose standard input has ended, which asks it to stop.
async fn stop(mut child: Child) {
    if timeout(STOP_MAX, child.wait()).await.is_err() {
        let _ = child.kill().await;
    }
}

/// Shows what a broker says, under its number.
async fn show(id: u16, output: impl AsyncRead + Unpin) {
    let mut lines = BufReader::new(output).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        eprintln!("[{id}] {line}");
    }
}

fn members(args: &DevArgs, data_dir: &Path) -> Result<Vec<Member>, Failure> {
    let parse = |text: &str| HostPort::parse(text).map_err(Failure::usage);
    let listen = parse(args.listen.as_deref().unwrap_or(DEV_LISTEN))?;
    let admin = parse(args.admin.as_deref().unwrap_or(DEV_ADMIN))?;
    let members = (0..args.brokers).map(|at| {
        let id = at + 1;
        let data_dir = data_dir.join(format!("broker-{id}"));
        Ok(Member { id, data_dir, listen: nth(&listen, at)?, admin: nth(&admin, at)? })
    });
    members.collect()
}

/// The address with the port that many further on; a free one where any will do.
fn nth(first: &HostPort, at: u16) -> Result<HostPort, Failure> {
    let port = match first.port {
        0 => {
            let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|socket| socket.local_addr());
            free.map_err(|error| Failure::failed(format!("there is no free port: {error}")))?.port()
        }
        port => port
            .checked_add(at)
            .ok_or_else(|| Failure::usage(format!("{first} leaves no room for the others")))?,
    };
    Ok(HostPort { host: first.host.clone(), port })
}

/// What starts each member.
fn commands(args: &DevArgs, data_dir: &Path, members: &[Member]) -> Result<Vec<Command>, Failure> {
    let program = std::env::current_exe()
        .map_err(|error| Failure::failed(format!("this program cannot be found: {error}")))?;
    let cluster_id = cluster_id(data_dir)?;
    let voters: Vec<String> =
        members.iter().map(|member| format!("{}@{}", member.id, member.listen)).collect();
    let voters = voters.join(",");
    let copies = members.len().min(3);
    let commands = members.iter().map(|member| {
        let mut settings = args.common.set.clone();
        for (key, value) in [("default.replication.factor", copies), ("min.insync.replicas", copies - 1)] {
            let is_given = |given: &String| given.split('=').next().is_some_and(|name| name.trim() == key);
            if !args.common.set.iter().any(is_given) {
                settings.push(format!("{key}={value}"));
            }
        }
        settings.extend([
            format!("node.id={}", member.id),
            format!("cluster.id={cluster_id}"),
            format!("controller.quorum.voters={voters}"),
        ]);
        let mut command = Command::new(&program);
        command
            .args(["dev", "--child", "--log-format", args.common.log_format.name()])
            .arg("--data-dir")
            .arg(&member.data_dir)
            .args(["--listen", &member.listen.to_string(), "--admin", &member.admin.to_string()])
            .args(settings.iter().flat_map(|setting| ["--set", setting]))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // Ctrl-C is for this process, which stops the others in order.
            .process_group(0)
            .kill_on_drop(true);
        command
    });
    Ok(commands.collect())
}

/// The cluster's id, which stays with its directory.
fn cluster_id(data_dir: &Path) -> Result<String, Failure> {
    let path = data_dir.join("cluster.id");
    let failed = |error| Failure::failed(format!("{}: {error}", path.display()));
    fs::create_dir_all(data_dir).map_err(failed)?;
    match fs::read_to_string(&path) {
        Ok(id) => Ok(id.trim().to_owned()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let random = || u128::from(TokioEnvironment.random());
            let id = Uuid::from_u128((random() << 64) | random()).to_string();
            fs::write(&path, &id).map_err(failed)?;
            Ok(id)
        }
        Err(error) => Err(failed(error)),
    }
}

fn banner(members: &[Member], data_dir: &Path, after_ms: u128) -> String {
    let program = std::env::args().next().filter(|program| program.contains('/'));
    let program = program.as_deref().unwrap_or("ottla");
    let first = &members[0].listen;
    let brokers = if first.to_string() == DEV_LISTEN { String::new() } else { format!(" -b {first}") };
    let mut text = format!(
        "ottla {}, {} brokers ready after {after_ms} ms\n\n",
        env!("CARGO_PKG_VERSION"),
        members.len()
    );
    for Member { id, listen, admin, .. } in members {
        text += &format!("  broker {id}  kafka {listen}  admin http://{admin}\n");
    }
    text += &format!(
        "  data      {}\n\n\
         Try, in another terminal:\n  \
         {program} topic create greetings -p 3{brokers}\n  \
         echo hello | {program} produce greetings{brokers}\n  \
         {program} cluster health{brokers}\n\n\
         Kill one with kill -9 and look again. Ctrl-C stops all.\n",
        data_dir.display()
    );
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_follow_each_other_and_end_at_the_last() {
        let first = HostPort { host: "127.0.0.1".to_owned(), port: 65_534 };
        assert_eq!(nth(&first, 1).unwrap().to_string(), "127.0.0.1:65535");
        assert!(nth(&first, 2).is_err());
    }

    #[test]
    fn the_banner_tells_of_every_broker() {
        let member = |id: u16| Member {
            id,
            data_dir: PathBuf::new(),
            listen: HostPort { host: "127.0.0.1".to_owned(), port: 9091 + id },
            admin: HostPort { host: "127.0.0.1".to_owned(), port: 9643 + id },
        };
        let text = banner(&[member(1), member(2)], Path::new("ottla-data"), 900);
        assert!(text.contains("  broker 2  kafka 127.0.0.1:9093  admin http://127.0.0.1:9645\n"), "{text}");
    }
}
