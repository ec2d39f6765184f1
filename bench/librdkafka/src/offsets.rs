//! Offsets committed as fast as they are answered: several readers, each with a group and a thread of its own, one commit of one
//! partition at a time.
//! Readers are not members of their groups, as those with partitions of their own choice are. It never commits what goes back.

use crate::arguments::Arguments;
use crate::consume::assignment;
use crate::produce::learn;
use rdkafka::Offset;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use std::thread;
use std::time::{Duration, Instant};

pub fn offsets(arguments: &Arguments) -> Result<String, String> {
    let measured = Duration::from_secs_f64(arguments.number("seconds")?);
    let groups: u32 = arguments.number("groups")?;
    let begin = Instant::now();
    let commits = thread::scope(|scope| {
        let readers: Vec<_> =
            (0..groups).map(|group| scope.spawn(move || read(arguments, group, measured))).collect();
        readers
            .into_iter()
            .map(|reader| reader.join().expect("a reader does not panic"))
            .sum::<Result<u64, String>>()
    })?;
    Ok(format!("commits={commits} seconds={:.4}", begin.elapsed().as_secs_f64()))
}

fn read(arguments: &Arguments, group: u32, lasts: Duration) -> Result<u64, String> {
    let topic = arguments.text("topic")?;
    let mut config = arguments.client()?;
    config.set("group.id", format!("{topic}-{group}")).set("enable.auto.commit", "false");
    let consumer: BaseConsumer = config.create().map_err(|e| e.to_string())?;
    learn(consumer.client(), topic)?;
    let mut commits = 0;
    let begin = Instant::now();
    while begin.elapsed() < lasts {
        let offset = assignment(topic, 1, Offset::Offset(commits))?;
        consumer.commit(&offset, CommitMode::Sync).map_err(|e| e.to_string())?;
        commits += 1;
    }
    Ok(commits as u64)
}
