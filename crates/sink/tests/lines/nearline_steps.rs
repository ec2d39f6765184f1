//! Each request of the line into a topic as a place to die at: at the end each record is in the output once, and in order.
//!
//! Instances run against a real broker. What one of them sends is a step, and so is what it is about to hear. It dies, is cut off or
//! pauses at its n-th step, for every n there is, and another takes its name and its work. The test prints how many points it came to.

use std::future::pending;
use std::io::{self, ErrorKind};
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use client::{
    Address, BoxFuture, Consumer, Environment, Isolation, OffsetSpec, Options, ProducerRecord, Socket, Start,
    TokioEnvironment,
};
use sink::{Done, LocalFiles, RunError, Settings, Until};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use wire::{Millis, PartitionId, Str, TopicPartition};

use crate::support::world::{PATIENCE, World};

const RECORDS: usize = 12;

/// What happens at the chosen step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// Nothing is done any more.
    Dies,
    /// The connection is gone.
    Fails,
    /// Nothing is sent and nothing is heard until another has done all there is to do.
    Pauses,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    AtWork,
    Stopped,
    Resumed,
}

/// Counts an instance's steps, and has one of them meet its fate.
struct Steps {
    at: u64,
    fate: Fate,
    state: watch::Sender<State>,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    count: u64,
    waiting: Vec<Waker>,
}

impl Steps {
    fn new(at: u64, fate: Fate) -> Arc<Self> {
        Arc::new(Self { at, fate, state: watch::Sender::new(State::AtWork), inner: Mutex::default() })
    }

    fn step(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut inner = self.inner.lock().unwrap();
        if *self.state.borrow() != State::Stopped {
            inner.count += 1;
            if inner.count != self.at {
                return Poll::Ready(Ok(()));
            }
            if self.fate == Fate::Fails {
                return Poll::Ready(Err(ErrorKind::ConnectionReset.into()));
            }
            self.state.send_replace(State::Stopped);
        }
        inner.waiting.push(cx.waker().clone());
        Poll::Pending
    }

    /// Whether nothing moves.
    fn is_stopped(&self, cx: &mut Context<'_>) -> bool {
        let mut inner = self.inner.lock().unwrap();
        let is_stopped = *self.state.borrow() == State::Stopped;
        if is_stopped {
            inner.waiting.push(cx.waker().clone());
        }
        is_stopped
    }

    fn resume(&self) {
        let mut inner = self.inner.lock().unwrap();
        self.state.send_replace(State::Resumed);
        inner.waiting.drain(..).for_each(Waker::wake);
    }

    fn is_met(&self) -> bool {
        self.inner.lock().unwrap().count >= self.at
    }

    async fn until_stopped(&self) {
        self.state.subscribe().wait_for(|state| *state == State::Stopped).await.map(drop).unwrap();
    }
}

/// The network as one instance has it.
struct Stepping(Arc<Steps>);

impl Environment for Stepping {
    fn connect<'a>(&'a self, address: &'a Address) -> BoxFuture<'a, io::Result<Box<dyn Socket>>> {
        Box::pin(async move {
            let socket = TokioEnvironment.connect(address).await?;
            Ok(Box::new(Stepped { socket, steps: Arc::clone(&self.0), is_asking: false }) as Box<dyn Socket>)
        })
    }

    fn now(&self) -> Millis {
        TokioEnvironment.now()
    }

    fn random(&self) -> u64 {
        TokioEnvironment.random()
    }
}

struct Stepped {
    socket: Box<dyn Socket>,
    steps: Arc<Steps>,
    /// Whether something was sent since something was heard.
    is_asking: bool,
}

impl AsyncRead for Stepped {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.steps.is_stopped(cx) {
            return Poll::Pending;
        }
        if this.is_asking {
            ready!(this.steps.step(cx))?;
            this.is_asking = false;
        }
        Pin::new(&mut this.socket).poll_read(cx, buf)
    }
}

impl AsyncWrite for Stepped {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        ready!(this.steps.step(cx))?;
        let written = ready!(Pin::new(&mut this.socket).poll_write(cx, buf));
        this.is_asking = true;
        Poll::Ready(written)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().socket).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().socket).poll_shutdown(cx)
    }
}

/// One input and one output, and a line of its own between them.
struct Line<'a> {
    world: &'a World,
    name: String,
}

impl<'a> Line<'a> {
    async fn new(world: &'a World, name: String) -> Self {
        let line = Self { world, name };
        world.create(&line.input(), 1).await;
        world.create(&line.output(), 1).await;
        world.send_all((0..RECORDS).map(|number| line.record(number))).await;
        line
    }

    fn input(&self) -> String {
        format!("{}-in", self.name)
    }

    fn output(&self) -> String {
        format!("{}-out", self.name)
    }

    fn record(&self, number: usize) -> ProducerRecord {
        let mut record = ProducerRecord::new(Str::copy_from(&self.input()), format!("value {number}"));
        record.partition = Some(PartitionId(0));
        record
    }

    fn settings(&self) -> Settings {
        let (name, input, output) = (&self.name, self.input(), self.output());
        let text = format!(
            "name = {name:?}\ntopics = [{input:?}]\n[nearline]\ntopic = {output:?}\nflush_rows = 5\n"
        );
        Settings::parse(&text).unwrap()
    }

    fn options(&self) -> Options {
        let mut options = self.world.instance("one");
        options.set("max.poll.records", "5").unwrap();
        options
    }

    fn start(&self, environment: Arc<dyn Environment>) -> JoinHandle<Result<Vec<Done>, RunError>> {
        let (settings, options) = (self.settings(), self.options());
        tokio::spawn(async move {
            sink::run(&settings, options, environment, Arc::new(LocalFiles), Until::End, pending()).await
        })
    }

    /// What readers of committed records see.
    async fn written(&self) -> Vec<String> {
        let partition = TopicPartition::new(Str::copy_from(&self.output()), PartitionId(0));
        let spec = [(partition.clone(), OffsetSpec::Latest)];
        let listed = self.world.admin().list_offsets(&spec, Isolation::ReadCommitted).await.unwrap();
        let end = listed[0].1.as_ref().unwrap().offset.unwrap();
        let mut consumer = Consumer::new(self.world.cluster());
        consumer.assign([(partition.clone(), Some(Start::Earliest))]).unwrap();
        let mut written = Vec::new();
        while consumer.position(&partition).is_none_or(|position| position < end) {
            if let Ok(next) = timeout(Duration::from_millis(20), consumer.next()).await {
                let next = next.unwrap().unwrap();
                let values = next.iter().map(|record| record.value.clone().unwrap());
                written.extend(values.map(|value| String::from_utf8(value.to_vec()).unwrap()));
                next.done();
            }
        }
        written
    }
}

/// Has an instance meet its fate at each of its steps. Gives how many there were.
async fn at_each_step(fate: Fate) -> u64 {
    let world = World::new(1).await;
    let expected: Vec<_> = (0..RECORDS).map(|number| format!("value {number}")).collect();
    for at in 1.. {
        let what = format!("{fate:?} at {at}");
        let line = Line::new(&world, format!("line-{at}")).await;
        let steps = Steps::new(at, fate);
        let mut first = line.start(Arc::new(Stepping(Arc::clone(&steps))));
        let stopped = async {
            tokio::select! {
                ended = &mut first => Some(ended.unwrap()),
                () = steps.until_stopped() => None,
            }
        };
        let ended =
            timeout(PATIENCE, stopped).await.unwrap_or_else(|_| panic!("{what}: it goes on for ever"));
        if !steps.is_met() {
            ended.unwrap().unwrap();
            assert_eq!(line.written().await, expected, "undisturbed");
            return at - 1;
        }
        match (fate, ended) {
            (Fate::Dies, None) => first.abort(),
            (Fate::Pauses, None) | (Fate::Fails, Some(Err(_))) => {}
            // It goes on by another connection, or had no more to say than that it ends.
            (_, Some(Ok(_))) => {
                assert_eq!(line.written().await, expected, "{what}");
                continue;
            }
            (_, ended) => panic!("{what}: {ended:?}"),
        }
        let second = timeout(PATIENCE, line.start(Arc::new(TokioEnvironment))).await;
        second.unwrap_or_else(|_| panic!("{what}: another goes on for ever")).unwrap().unwrap();
        assert_eq!(line.written().await, expected, "{what}");
        if fate == Fate::Pauses {
            steps.resume();
            let woken = timeout(PATIENCE, first).await;
            // Whatever it makes of it.
            let _ = woken.unwrap_or_else(|_| panic!("{what}: woken, it goes on for ever")).unwrap();
            assert_eq!(line.written().await, expected, "{what}, and woken");
        }
    }
    unreachable!("it comes to its end");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_dies_at_any_step_is_taken_over_from_exactly() {
    println!("killed over a topic: {} crash points", at_each_step(Fate::Dies).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_cut_off_at_any_step_goes_on_or_is_taken_over_from_exactly() {
    println!("cut off over a topic: {} crash points", at_each_step(Fate::Fails).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_pauses_at_any_step_and_wakes_behind_another_writes_nothing() {
    println!("zombies over a topic: {} crash points", at_each_step(Fate::Pauses).await);
}
