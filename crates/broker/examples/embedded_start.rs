//! How long an embedded broker takes to start, to be killed and started again, and to stop:
//! `cargo run --release -p ottla-broker --example embedded_start`.

use std::time::Duration;

use broker::embedded::{EmbeddedBroker, EmbeddedError};
use tokio::time::Instant;

const TIMES: usize = 20;

fn main() -> Result<(), EmbeddedError> {
    let dir = std::env::temp_dir().join(format!("ottla-embedded-start-{}", std::process::id()));
    println!("{TIMES} times, median (slowest)");
    measure("in memory", |_| EmbeddedBroker::start())?;
    measure("in a directory", |time| EmbeddedBroker::builder().data_dir(dir.join(time.to_string())).start())?;
    let _ = std::fs::remove_dir_all(&dir);
    Ok(())
}

fn measure(
    place: &str,
    start: impl Fn(usize) -> Result<EmbeddedBroker, EmbeddedError>,
) -> Result<(), EmbeddedError> {
    let (mut started, mut again, mut stopped) = (Vec::new(), Vec::new(), Vec::new());
    for time in 0..TIMES {
        let began = Instant::now();
        let mut broker = start(time)?;
        started.push(began.elapsed());
        let began = Instant::now();
        broker.kill();
        broker.start_again()?;
        again.push(began.elapsed());
        let began = Instant::now();
        broker.stop()?;
        stopped.push(began.elapsed());
    }
    let (started, again, stopped) = (middle(started), middle(again), middle(stopped));
    println!("{place:<16} start {started}, killed and started again {again}, stop {stopped}");
    Ok(())
}

fn middle(mut times: Vec<Duration>) -> String {
    times.sort();
    let ms = |time: Duration| time.as_secs_f64() * 1e3;
    format!("{:.1} ms ({:.1})", ms(times[TIMES / 2]), ms(times[TIMES - 1]))
}
