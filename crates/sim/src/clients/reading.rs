//! A process with the product's reader: positions in a store, and results there too or beside it.

use std::sync::Arc;
use std::time::Duration;

use offsets::{Batch, Cause, Policy, Reader, ReaderError, ReaderOptions, StoreError};
use tokio::time::{sleep, timeout};

use super::consuming;
use super::stage::{CLOSE_MAX, Life, SOURCE, Stage};
use super::store::{Access, Kind, Store};
use crate::history::Place;
use crate::load::RETRY;

/// How often a process asks its store for the same before it gives up.
const ATTEMPTS: u32 = 6;

/// How a process is to go on after a batch.
#[derive(PartialEq, Eq)]
enum Next {
    GoOn,
    /// Begin again as another process: what it knows may not be so.
    End,
}

/// Reads into a store, one process after the other.
pub(super) async fn run(
    stage: Stage,
    host: &'static str,
    store: Store,
    protocol: &'static [(&'static str, &'static str)],
) {
    loop {
        let life = stage.begin_life(host).await;
        live(&life, &store, protocol).await;
        sleep(RETRY).await;
    }
}

/// One process, until it ends in order or stops at a gap.
async fn live(life: &Life, store: &Store, protocol: &[(&str, &str)]) {
    let dice = &life.dice;
    let role = store.role;
    let records_max = (1 + dice.below(30)).to_string();
    let mut settings = vec![("max.poll.records", &*records_max)];
    settings.extend(protocol);
    // Somebody has looked at what stopped, and decided: what the store has is what counts.
    let is_decided = life.stage.is_stopped(life.host) && (life.stage.is_ending() || dice.percent(60));
    let at_gap = if is_decided { Policy::Nearest } else { Policy::Stop };
    let options = ReaderOptions { at_gap, ..ReaderOptions::new(role.parse().expect("a name")) };
    life.note(&format!("begins to read, and at a gap {at_gap:?}"));
    let copies = [0, 1, 2].map(|partition| life.stage.seen.copy(role, partition));
    let access = Access::new(store.clone(), life.clone());
    let reader = Reader::subscribe(
        life.stage.options(&settings),
        life.stage.environment(),
        Arc::new(access.clone()),
        options,
        [SOURCE],
    );
    let mut reader = reader.expect("it has a group");
    life.stage.set_stopped(life.host, false);
    let batches = 20 + dice.below(300);
    for _ in 0..batches {
        let wait = Duration::from_millis(if dice.percent(20) { dice.below(20) } else { 1_000 });
        match timeout(wait, reader.next()).await {
            Err(_) => {}
            Ok(Some(Ok(batch))) => {
                let partition = batch.partition().partition.0;
                let values = consuming::values(&batch);
                let first = values[0].0;
                let (seen, confirmed) = (&life.stage.seen, copies[partition as usize]);
                let is_current = seen.copy(role, partition).decisions == confirmed.decisions;
                if is_decided {
                    seen.decides(role, partition);
                } else if is_current && first < confirmed.copy {
                    life.anomaly(&format!(
                        "is given {partition}/{first} again without a word, and {} was confirmed",
                        confirmed.copy
                    ));
                }
                life.stage.seen.given(role, &life.name, (partition, batch.position().0), &values);
                let rows: Vec<(Place, String)> =
                    values.into_iter().map(|(offset, value)| ((partition, offset), value)).collect();
                if deal(life, &reader, &access, batch, &rows).await == Next::End {
                    return;
                }
            }
            Ok(Some(Err(error))) => {
                life.note(&format!("is told: {error}"));
                judge(life, store.kind, &error);
                if !matches!(error, ReaderError::Client(client::Error::PollInterval { .. })) {
                    // The others go on for a while.
                    if dice.percent(50) || life.stage.is_ending() {
                        break;
                    }
                }
            }
            Ok(None) => break,
        }
        life.awake().await;
        // Somebody looks at what stopped, and the others have come to the end by then.
        if life.stage.is_ending() && life.stage.is_stopped(life.host) {
            break;
        }
        if dice.percent(10) {
            match reader.consumer().commit().await {
                Ok(committed) if !is_decided => {
                    for (partition, offset) in &committed.offsets {
                        life.stage.seen.copied(role, partition.partition.0, offset.0);
                    }
                }
                Ok(_) => {}
                Err(error) => life.note(&format!("cannot copy its position: {error}")),
            }
        }
    }
    match dice.below(2) {
        0 => drop(reader),
        _ => match timeout(CLOSE_MAX + RETRY, reader.close(CLOSE_MAX)).await {
            Ok(closed) => life.note(&format!("closes: {closed:?}")),
            Err(_) => life.anomaly("does not come to the end of closing"),
        },
    }
}

/// Whether an error fits what can happen to such a store.
fn judge(life: &Life, kind: Kind, error: &ReaderError) {
    let is_expected = match error {
        ReaderError::Gap(gap) => {
            life.stage.set_stopped(life.host, true);
            kind != Kind::Transactional && gap.cause == Cause::StoreRolledBack
        }
        ReaderError::Store(StoreError::Fenced { .. }) => true,
        ReaderError::Store(StoreError::Moved { .. } | StoreError::Lost { .. }) => kind != Kind::Transactional,
        ReaderError::Store(error) => error.is_retriable(),
        ReaderError::Gone { .. } => true,
        ReaderError::OutOfOrder { .. } => false,
        ReaderError::Client(error) => consuming::is_expected(error),
    };
    if !is_expected {
        life.anomaly(&format!("is told: {error}"));
    }
}

/// Brings a batch's results to the store, and its position.
async fn deal(life: &Life, reader: &Reader, access: &Access, batch: Batch, rows: &[(Place, String)]) -> Next {
    life.work().await;
    let (partition, first) = rows[0].0;
    if life.dice.percent(4) {
        life.note(&format!("drops {partition}/{first}"));
        life.stage.seen.drops(&life.name, partition, first);
        return Next::GoOn;
    }
    let outcome = match access.store.kind {
        Kind::Transactional | Kind::Redis => transact(life, access, batch, rows).await,
        Kind::RedisForPositions => write_and_commit(life, reader, access, batch, rows).await,
    };
    match outcome {
        Ok(()) => Next::GoOn,
        Err(error) => {
            life.note(&format!("cannot store {partition}/{first}: {error}"));
            judge(life, access.store.kind, &error);
            life.stage.seen.drops(&life.name, partition, first);
            let goes_on = matches!(error, ReaderError::Gone { .. }) || life.dice.percent(30);
            if goes_on
                && matches!(error, ReaderError::Gone { .. } | ReaderError::Store(StoreError::Fenced { .. }))
            {
                Next::GoOn
            } else {
                Next::End
            }
        }
    }
}

async fn transact(
    life: &Life,
    access: &Access,
    batch: Batch,
    rows: &[(Place, String)],
) -> Result<(), ReaderError> {
    let claim = batch.claim()?;
    // Here it may be paused for long, and be a zombie when it wakes.
    life.awake().await;
    for _ in 1..ATTEMPTS {
        match access.transact(&claim, rows).await {
            Ok(()) | Err(StoreError::AlreadyThere { .. }) => {
                batch.stored();
                return Ok(());
            }
            Err(error) if error.is_retriable() => sleep(RETRY).await,
            Err(error) => return Err(error.into()),
        }
    }
    let source = Arc::new(std::io::Error::other("asked often enough"));
    Err(StoreError::Unavailable { store: "the simulated store", source }.into())
}

async fn write_and_commit(
    life: &Life,
    reader: &Reader,
    access: &Access,
    batch: Batch,
    rows: &[(Place, String)],
) -> Result<(), ReaderError> {
    let mut attempts = 0;
    while let Err(error) = access.write(rows).await {
        attempts += 1;
        if attempts == ATTEMPTS {
            return Err(error.into());
        }
        sleep(RETRY).await;
    }
    life.awake().await;
    reader.commit(batch).await
}
