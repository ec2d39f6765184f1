//! At least once: offsets with the group's coordinator, results as lines of a file.

use std::fs::File;
use std::io::Write;

use client::{Consumer, Error, Record};
use tokio::sync::mpsc;
use tokio::time::timeout;
use wire::Str;

use crate::handler::{CLOSE_MAX, Handler, IDLE_AFTER};
use crate::{Failure, Read, cluster, input_ended, say};

/// More than a test has records, as the queues have that the stock readers use.
const QUEUE_MAX: usize = 100_000;

struct Worker {
    handler: Handler,
    file: File,
}

impl Worker {
    /// A line is there once it is written, whatever becomes of this process.
    async fn handle(&mut self, record: Record) -> Result<(), Failure> {
        self.handler.work().await;
        let value = record.value.as_deref().unwrap_or_default();
        let number = String::from_utf8_lossy(value.split(|&byte| byte == b' ').next().unwrap_or_default());
        let line = format!("{} {} {number}\n", record.partition, record.offset);
        self.file.write_all(line.as_bytes())?;
        self.handler.before_commit().await;
        record.done();
        Ok(())
    }
}

pub(crate) async fn run(read: &Read, path: &str) -> Result<(), Failure> {
    let mut options = read.connection.options()?;
    options.set("group.id", &read.name)?;
    let consumer = Consumer::new(cluster(options)?);
    consumer.subscribe([Str::copy_from(&read.connection.topic)])?;
    let file = File::options().create(true).append(true).open(path)?;
    let mut worker = Worker { handler: Handler::new(read.habits.clone()), file };
    let mut records = consumer.singles();
    let mut ended = Box::pin(input_ended());

    if read.habits.queue {
        let (queue, mut queued) = mpsc::channel::<Record>(QUEUE_MAX);
        let work = tokio::spawn(async move {
            while let Some(record) = queued.recv().await {
                worker.handle(record).await?;
            }
            Ok::<(), Failure>(())
        });
        loop {
            tokio::select! {
                () = &mut ended => break,
                next = records.next() => match next {
                    Some(Ok(record)) => queue.send(record).await?,
                    Some(Err(error)) => tell(&error),
                    None => break,
                },
            }
        }
        drop(queue);
        work.await??;
        records.close(CLOSE_MAX).await?;
        return Ok(());
    }

    let mut is_idle = false;
    while !worker.handler.is_to_close() {
        let next = tokio::select! {
            () = &mut ended => break,
            next = timeout(IDLE_AFTER, records.next()) => next,
        };
        match next {
            Ok(Some(Ok(record))) => {
                is_idle = false;
                worker.handle(record).await?;
            }
            Ok(Some(Err(error))) => tell(&error),
            Ok(None) => break,
            Err(_) if is_idle => {}
            Err(_) => {
                is_idle = true;
                say("idle");
            }
        }
    }
    if worker.handler.is_to_close() {
        records.unsubscribe().await?;
    }
    records.close(CLOSE_MAX).await?;
    Ok(())
}

fn tell(error: &Error) {
    match error {
        Error::Stopped { .. } => say(format!("stopped: {error}")),
        _ => say(format!("error: {error}")),
    }
}
