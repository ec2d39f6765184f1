//! Exactly once: offsets in the store that the results are in.
//!
//! In PostgreSQL both are written in one transaction, into a table that would take a result twice. In Redis the results stand
//! under partition and offset and are written first, so that writing them again changes nothing.

use std::sync::Arc;
use std::time::Duration;

use client::TokioEnvironment;
use offsets::{
    Batch, OffsetStore, PostgresStore, Reader, ReaderError, ReaderOptions, RedisStore, StoreError,
};
use redis::Script;
use redis::aio::ConnectionManager;
use tokio::time::{sleep, timeout};
use tokio_postgres::NoTls;
use wire::Str;

use crate::handler::{CLOSE_MAX, Handler, IDLE_AFTER};
use crate::{Failure, Read, input_ended, say};

/// Before a store that does not answer is asked again.
const PAUSE: Duration = Duration::from_millis(100);

/// KEYS: the hash of a partition's results, the number of those that came again. ARGV: offset and value in turn.
const WRITE: &str = "
for at = 1, #ARGV, 2 do
    if redis.call('HSETNX', KEYS[1], ARGV[at], ARGV[at + 1]) == 0 then redis.call('INCR', KEYS[2]) end
end
";

/// A result.
struct Row {
    partition: i32,
    offset: i64,
    value: i64,
}

/// Where results go, and positions with them.
enum Output {
    Postgres { store: PostgresStore, address: String, client: Option<tokio_postgres::Client>, table: String },
    Redis { connection: ConnectionManager, write: Box<Script>, prefix: String },
}

/// What became of a batch.
enum Written {
    /// Results and position are there.
    Stored,
    /// Another reader has the partition, nothing was written.
    Gone,
}

pub(crate) async fn postgres(read: &Read, address: &str) -> Result<(), Failure> {
    let store = insisting(|| PostgresStore::connect(address)).await;
    let table = read.table.clone().ok_or("results in PostgreSQL want a --table")?;
    let mut output =
        Output::Postgres { store: store.clone(), address: address.to_owned(), client: None, table };
    run(read, Arc::new(store), &mut output).await
}

pub(crate) async fn redis(read: &Read, address: &str) -> Result<(), Failure> {
    let store = insisting(|| RedisStore::connect(address)).await;
    let client = redis::Client::open(address)?;
    let connection = insisting(|| client.get_connection_manager()).await;
    let prefix = format!("results:{}", read.name);
    let mut output = Output::Redis { connection, write: Box::new(Script::new(WRITE)), prefix };
    run(read, Arc::new(store), &mut output).await
}

/// A store may be down when its reader starts.
async fn insisting<T, E: std::fmt::Display, F: Future<Output = Result<T, E>>>(
    mut connect: impl FnMut() -> F,
) -> T {
    loop {
        match connect().await {
            Ok(connected) => return connected,
            Err(error) => say(format!("error: {error}")),
        }
        sleep(PAUSE).await;
    }
}

async fn run(read: &Read, store: Arc<dyn OffsetStore>, output: &mut Output) -> Result<(), Failure> {
    let options = ReaderOptions::new(read.name.parse()?);
    let topic = Str::copy_from(&read.connection.topic);
    let mut reader =
        Reader::subscribe(read.connection.options()?, Arc::new(TokioEnvironment), store, options, [topic])?;
    let mut handler = Handler::new(read.habits.clone());
    let mut ended = Box::pin(input_ended());
    let mut is_idle = false;
    while !handler.is_to_close() {
        let next = tokio::select! {
            () = &mut ended => break,
            next = timeout(IDLE_AFTER, reader.next()) => next,
        };
        match next {
            Ok(Some(Ok(batch))) => {
                is_idle = false;
                handle(&reader, batch, &mut handler, output).await?;
            }
            Ok(Some(Err(error))) => tell(error)?,
            Ok(None) => break,
            Err(_) if is_idle => {}
            Err(_) => {
                is_idle = true;
                say("idle");
            }
        }
    }
    if handler.is_to_close() {
        reader.consumer().unsubscribe().await?;
    }
    reader.close(CLOSE_MAX).await?;
    Ok(())
}

/// Says what is in the way, or ends if nothing will take it out of it.
fn tell(error: ReaderError) -> Result<(), Failure> {
    match error {
        ReaderError::Gap(gap) => say(format!("stopped: {gap}")),
        ReaderError::Store(error) if !error.is_retriable() && !matches!(error, StoreError::Fenced { .. }) => {
            return Err(error.into());
        }
        error => say(format!("error: {error}")),
    }
    Ok(())
}

async fn handle(
    reader: &Reader,
    batch: Batch,
    handler: &mut Handler,
    output: &mut Output,
) -> Result<(), Failure> {
    let mut rows = Vec::with_capacity(batch.len());
    for record in batch.iter() {
        handler.work().await;
        let value = record.value.as_deref().unwrap_or_default();
        let number = std::str::from_utf8(value)?.split(' ').next().unwrap_or_default();
        rows.push(Row { partition: record.partition.0, offset: record.offset.0, value: number.parse()? });
    }
    loop {
        let written = match output {
            Output::Postgres { store, address, client, table } => {
                write_postgres(store, address, client, table, &batch, &rows, handler).await
            }
            Output::Redis { connection, write, prefix } => {
                write_redis(connection, write, prefix, &batch, &rows).await
            }
        };
        match written {
            Ok(Written::Stored) if matches!(output, Output::Postgres { .. }) => {
                batch.stored();
                return Ok(());
            }
            Ok(Written::Stored) => {
                handler.before_commit().await;
                return match reader.commit(batch).await {
                    // Dropped, it comes again, to results that are there.
                    Err(ReaderError::Gone { .. } | ReaderError::OutOfOrder { .. }) | Ok(()) => Ok(()),
                    Err(error) => tell(error),
                };
            }
            Ok(Written::Gone) => {
                say(format!("gone: {} {}", batch.partition(), batch.position()));
                return Ok(());
            }
            Err(error) => say(format!("error: {}", causes(&*error))),
        }
        sleep(PAUSE).await;
    }
}

/// An error with what it came from: PostgreSQL's says nothing by itself.
fn causes(error: &dyn std::error::Error) -> String {
    std::iter::successors(Some(error), |error| error.source())
        .map(|error| error.to_string())
        .collect::<Vec<_>>()
        .join(": ")
}

/// An error is one that may be over soon; others end the program.
async fn write_postgres(
    store: &PostgresStore,
    address: &str,
    client: &mut Option<tokio_postgres::Client>,
    table: &str,
    batch: &Batch,
    rows: &[Row],
    handler: &Handler,
) -> Result<Written, Failure> {
    let claim = match batch.claim() {
        Ok(claim) => claim,
        Err(ReaderError::Gone { .. } | ReaderError::OutOfOrder { .. }) => return Ok(Written::Gone),
        Err(error) => fatal(&error),
    };
    if client.as_ref().is_none_or(tokio_postgres::Client::is_closed) {
        let (connected, connection) = tokio_postgres::connect(address, NoTls).await?;
        tokio::spawn(connection);
        *client = Some(connected);
    }
    let client = client.as_mut().expect("it has just been connected");
    let transaction = client.transaction().await?;
    let insert = format!(
        "INSERT INTO {table} (partition, position, value) SELECT * FROM unnest($1::int[], $2::bigint[], $3::bigint[])"
    );
    let partitions: Vec<i32> = rows.iter().map(|row| row.partition).collect();
    let positions: Vec<i64> = rows.iter().map(|row| row.offset).collect();
    let values: Vec<i64> = rows.iter().map(|row| row.value).collect();
    transaction.execute(&insert, &[&partitions, &positions, &values]).await?;
    match store.commit_in(&transaction, &claim).await {
        Ok(()) => {}
        // The commit that was not answered had been done.
        Err(StoreError::AlreadyThere { .. }) => {
            transaction.rollback().await?;
            return Ok(Written::Stored);
        }
        Err(StoreError::Fenced { .. }) => {
            transaction.rollback().await?;
            return Ok(Written::Gone);
        }
        Err(error) if error.is_retriable() => return Err(error.into()),
        Err(error) => fatal(&error),
    }
    handler.before_commit().await;
    transaction.commit().await?;
    Ok(Written::Stored)
}

async fn write_redis(
    connection: &mut ConnectionManager,
    write: &Script,
    prefix: &str,
    batch: &Batch,
    rows: &[Row],
) -> Result<Written, Failure> {
    if !batch.is_wanted() {
        return Ok(Written::Gone);
    }
    let mut call = write.prepare_invoke();
    call.key(format!("{prefix}:{}", batch.partition().partition)).key(format!("{prefix}:again"));
    for row in rows {
        call.arg(row.offset).arg(row.value);
    }
    call.invoke_async::<()>(connection).await?;
    Ok(Written::Stored)
}

/// What no waiting mends.
fn fatal(error: &dyn std::error::Error) -> ! {
    eprintln!("{error}");
    std::process::exit(1)
}
