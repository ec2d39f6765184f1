//! The same on a cluster as `ottla dev --brokers N` runs it: each round one of its brokers, whichever, is killed under load,
//! when it leads its share of the partitions.
//! `ottla cluster health` must say so while it is down and that all is well before and after, and every producer must be
//! acknowledged in every partition again.

use super::{PARTITIONS, TOPIC};
use crate::dev_cluster::DevCluster;
use crate::dice::Dice;
use crate::producers::{Load, Producers, Programs, Watch};
use crate::replicas;
use crate::shell;
use crate::toolbox::Toolbox;
use crate::verdict::{self, Told};
use std::path::Path;
use std::time::{Duration, Instant};

/// For producers to be acknowledged again.
const PATIENCE: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(20);

/// What the caller has drawn up.
pub(super) struct Plan {
    pub(super) brokers: u16,
    pub(super) rounds: u64,
    pub(super) seed: u64,
    pub(super) rate: u64,
}

pub(super) fn run(plan: &Plan, toolbox: &Toolbox, binary: &Path) -> Result<(), String> {
    let home = shell::scratch("crash")?;
    println!(
        "seed {}, {} rounds, {} brokers, logs in {}",
        plan.seed,
        plan.rounds,
        plan.brokers,
        home.display()
    );
    let mut cluster = DevCluster::start(binary, plan.brokers, &home)?;
    create_topic(toolbox, &cluster, &home)?;
    let bootstrap = cluster.bootstrap();
    let load = Load { programs: Programs::Idempotent, bootstrap, topic: TOPIC, rate: plan.rate };
    let mut producers = Producers::start(toolbox, &load, &home)?;
    let watch = Producers::watch(&[&producers], PARTITIONS);
    wait_until_acknowledged(&mut producers, &watch, shell::now())?;

    let mut dice = Dice::new(plan.seed);
    let ids: Vec<u16> = (1..=plan.brokers).collect();
    for round in 1..=plan.rounds {
        cluster.spread_leaders()?;
        std::thread::sleep(dice.millis(500, 2000));
        cluster.check()?;
        let before = cluster.health()?;
        if !before.is_healthy {
            return Err(format!("before a broker is killed the cluster is not healthy:\n{}", before.text));
        }
        let id = dice.pick(&ids);
        watch.mark();
        cluster.kill(id)?;
        let killed = shell::now();
        let told_after = cluster.wait_until_told_of(id)?;
        wait_until_acknowledged(&mut producers, &watch, killed)?;
        let acknowledged_after = killed.elapsed();
        let healthy_after = cluster.wait_until_healthy(killed)?;
        let silences: Vec<String> = watch
            .stalls()
            .iter()
            .map(|stall| format!("{} {:.1} s", stall.name, stall.partition.as_secs_f64()))
            .collect();
        println!(
            "round {round:>2}: broker {id} killed; health told after {:.1} s, all acknowledged again after {:.1} s, healthy \
             after {:.1} s; longest silence of a partition: {}; {} acknowledged",
            told_after.as_secs_f64(),
            acknowledged_after.as_secs_f64(),
            healthy_after.as_secs_f64(),
            silences.join(", "),
            watch.acknowledged()
        );
    }

    let mut told = Told { producers: producers.stop()?, ..Told::default() };
    cluster.check()?;
    let agreed = replicas::compare(&cluster.dirs(), TOPIC, PARTITIONS, PATIENCE)?;
    told.epochs = agreed.epochs;
    verdict::verify(toolbox, &cluster.bootstrap(), TOPIC, &told, &home)?;
    println!(
        "{} crashes, nothing acknowledged is lost, nothing is there twice; {} batches are the same on {} brokers",
        plan.rounds, agreed.batches, plan.brokers
    );
    Ok(())
}

/// Waits until every producer was acknowledged in every partition after `since`.
fn wait_until_acknowledged(producers: &mut Producers, watch: &Watch, since: Instant) -> Result<(), String> {
    loop {
        producers.check()?;
        let silent = watch.silent_since(since);
        if silent.is_empty() {
            return Ok(());
        }
        if since.elapsed() > PATIENCE {
            return Err(format!(
                "after {} s nothing was acknowledged to {}",
                PATIENCE.as_secs(),
                silent.join("; ")
            ));
        }
        std::thread::sleep(PAUSE);
    }
}

fn create_topic(toolbox: &Toolbox, cluster: &DevCluster<'_>, home: &Path) -> Result<(), String> {
    let mut create = toolbox.console_tool("org.apache.kafka.tools.TopicCommand");
    create
        .args(["--bootstrap-server", &cluster.bootstrap(), "--create", "--topic", TOPIC])
        .args(["--partitions", &PARTITIONS.to_string()]);
    shell::pipe(&mut create, "", &home.join("topic.log")).map(|_| ())
}
