//! `ottla cluster decommission`: everything that a broker keeps goes to the others, its vote too.
//!
//! Nothing is begun that cannot be finished: where a partition has more replicas than brokers remain, or the
//! quorum could not do without the broker, that is said first. The broker need not run: what it kept is
//! copied from others.

use std::time::Duration;

use clap::Args;
use client::{Admin, QuorumInfo, ReplicationFactor};
use wire::{BrokerId, TopicPartition};

use super::health::plural;
use super::plan::{Goal, Part, Placement, Plan, PlanBroker, plan};
use super::progress::{Patience, Progress};
use super::quorum::{self, is_heard};
use super::rebalance::{say, show, summary, survey, targets};
use super::{colon, confirm, moving, unregister};
use crate::failure::Failure;
use crate::output::{OutputArgs, Style};

/// A topic that is created meanwhile may be put on the broker again.
const ROUNDS_MAX: usize = 5;
/// Between two looks at whether the broker was stopped.
const LOOK_PAUSE: Duration = Duration::from_millis(500);

/// Move everything off a broker, so that it can be stopped for good
#[derive(Debug, Args)]
#[command(after_help = "\
Moves the broker's replicas to the others, a few partitions at a time, and takes its vote away; if a broker
without a vote can have it, that one gets it first. Afterwards the broker may be stopped and unregistered:
stop it soon, as new topics are put on every broker that runs. A broker that is gone already can be
decommissioned as well.

Examples:
  ottla cluster decommission 3 --dry-run
  ottla cluster decommission 3                    # asks first
  ottla cluster decommission 3 --yes --unregister # then waits until it is stopped, and forgets it")]
pub(super) struct DecommissionArgs {
    /// The broker's id
    id: i32,
    /// Only show the plan
    #[arg(long)]
    dry_run: bool,
    /// Do not ask
    #[arg(short, long)]
    yes: bool,
    /// Stop waiting after so many seconds; what was begun goes on
    #[arg(long, value_name = "SECONDS")]
    wait: Option<u64>,
    /// When everything is moved, wait until the broker is stopped and unregister it
    #[arg(long)]
    unregister: bool,
}

pub(super) async fn run(args: DecommissionArgs, output: OutputArgs, admin: &Admin) -> Result<(), Failure> {
    let id = BrokerId(args.id);
    let patience = Patience::new(args.wait);
    let (brokers, placements) = survey(admin, Some(id)).await?;
    if brokers.iter().all(|broker| broker.id != id) {
        let message = format!("there is no broker {id}");
        return Err(Failure::failed(message).with_advice("`ottla cluster info` shows all"));
    }
    let quorum = quorum::within_reach(admin, &quorum::describe(admin).await?).await;
    let vote = Vote::of(&quorum, &brokers, id)?;
    let plan = vacating(&brokers, &placements)?;
    if output.style() == Style::Table || args.dry_run {
        show(&plan, output, 0)?;
        vote.announce(id);
    }
    let stuck = stuck(&placements, id);
    for partition in &stuck {
        say(&format!("{} has no leader: its replica on broker {id} cannot be moved", colon(partition)));
    }
    let asked = match plan.changes.is_empty() {
        true => format!("take broker {id} out of service?"),
        false => format!("move {} off broker {id}?", summary(&plan)),
    };
    if args.dry_run || !confirm(&asked, args.yes)? {
        return Ok(());
    }
    let moved = vacate(admin, id, &plan, patience).await?;
    if output.style() == Style::Json {
        show(&plan, output, moved)?;
    }
    if !stuck.is_empty() {
        let message = format!("{} still on broker {id}", plural(stuck.len(), "partition"));
        let advice =
            "have them led first: start the brokers that keep them, or `ottla cluster elect --unclean`";
        return Err(Failure::failed(message).with_advice(advice));
    }
    vote.pass_on(admin, id).await?;
    match (args.unregister, is_counted_in(admin, id).await?) {
        (true, is_running) => return finish(admin, id, is_running, patience).await,
        (false, true) => say(&format!(
            "broker {id} keeps nothing any more: stop it soon, and then `ottla cluster unregister {id}`"
        )),
        (false, false) => {
            say(&format!("broker {id} keeps nothing any more: now `ottla cluster unregister {id}`"));
        }
    }
    Ok(())
}

fn vacating(brokers: &[PlanBroker], placements: &[Placement]) -> Result<Plan, Failure> {
    plan(brokers, placements, Goal::Vacate).map_err(|no_room| {
        let left = brokers.iter().filter(|broker| broker.part == Part::Shares).count();
        let message = format!(
            "topic {} keeps {} of a partition, and {} can take them without this one",
            no_room.partition.topic,
            plural(no_room.replicas, "replica"),
            plural(left, "broker"),
        );
        let advice = "add a broker, start those that are fenced, or give the topic fewer replicas with \
                      `ottla cluster reassign --file`";
        Failure::failed(message).with_advice(advice)
    })
}

/// Partitions that stay on the broker, as they cannot be moved.
fn stuck(placements: &[Placement], id: BrokerId) -> Vec<TopicPartition> {
    let stuck = placements.iter().filter(|of| !of.is_movable && of.replicas.contains(&id));
    stuck.map(|placement| placement.partition.clone()).collect()
}

/// Carries out the plan, and what becomes necessary meanwhile; says how many partitions were changed.
async fn vacate(admin: &Admin, id: BrokerId, first: &Plan, patience: Patience) -> Result<usize, Failure> {
    let mut plan = first.clone();
    let mut done = 0;
    for _ in 0..ROUNDS_MAX {
        if plan.changes.is_empty() {
            return Ok(done);
        }
        let changed: Vec<_> = plan.changes.iter().map(|change| change.partition.clone()).collect();
        let moved = moving::apply(admin, targets(&plan), ReplicationFactor::Kept, patience).await?;
        done += moved.done;
        moved.report()?;
        let elected = moving::prefer_leaders(admin, Some(&changed)).await?;
        let moved = plural(moved.done, "partition");
        say(&format!("{moved} changed, {} elected", plural(elected, "preferred leader")));
        let (brokers, placements) = survey(admin, Some(id)).await?;
        plan = vacating(&brokers, &placements)?;
    }
    let message = format!("broker {id} gets new partitions faster than they can be moved off it");
    Err(Failure::failed(message).with_advice("stop it, and run this again"))
}

/// What becomes of a broker's vote.
#[derive(Debug, PartialEq, Eq)]
enum Vote {
    /// It has none.
    None,
    /// Nobody gets it; so many voters remain.
    Dropped { left: usize },
    /// Another broker gets one first.
    Handed { to: BrokerId },
}

impl Vote {
    fn of(quorum: &QuorumInfo, brokers: &[PlanBroker], id: BrokerId) -> Result<Self, Failure> {
        if quorum.voters.iter().all(|voter| voter.id != id) {
            return Ok(Self::None);
        }
        let is_counted_in =
            |id: BrokerId| brokers.iter().any(|broker| broker.id == id && broker.part == Part::Shares);
        let heir = quorum.observers.iter().find(|observer| is_counted_in(observer.id) && is_heard(observer));
        match heir {
            Some(heir) => Ok(Self::Handed { to: heir.id }),
            None => {
                quorum::check_removal(quorum, id)?;
                Ok(Self::Dropped { left: quorum.voters.len() - 1 })
            }
        }
    }

    fn announce(&self, id: BrokerId) {
        match self {
            Self::None => {}
            Self::Dropped { left } => say(&format!(
                "the vote of broker {id} in the metadata quorum goes; {} then, of whom {} may fail",
                plural(*left, "voter"),
                left.saturating_sub(1) / 2,
            )),
            Self::Handed { to } => {
                say(&format!("broker {to} gets a vote in the metadata quorum in the place of broker {id}"));
            }
        }
    }

    async fn pass_on(&self, admin: &Admin, id: BrokerId) -> Result<(), Failure> {
        if let Self::Handed { to } = self {
            quorum::add(admin, &quorum::describe(admin).await?, *to).await?;
        }
        if *self != Self::None {
            quorum::remove(admin, &quorum::describe(admin).await?, id).await?;
        }
        Ok(())
    }
}

async fn is_counted_in(admin: &Admin, id: BrokerId) -> Result<bool, Failure> {
    let info = admin.describe_cluster().await?;
    Ok(info.brokers.iter().any(|broker| broker.id == id && !broker.is_fenced))
}

/// Waits until the broker is stopped, and has it forgotten.
async fn finish(admin: &Admin, id: BrokerId, is_running: bool, patience: Patience) -> Result<(), Failure> {
    if is_running {
        say(&format!("broker {id} keeps nothing any more: stop it now; it is unregistered then"));
    }
    let progress = Progress::new();
    while is_counted_in(admin, id).await? {
        if patience.is_over() {
            let advice = format!("stop it, and then `ottla cluster unregister {id}`");
            return Err(Failure::failed(format!("broker {id} was not stopped in time")).with_advice(advice));
        }
        progress.show(format_args!("waiting until broker {id} is stopped{}", patience.left()));
        patience.pause(LOOK_PAUSE).await;
    }
    drop(progress);
    unregister::unregister(admin, id).await
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use client::{QuorumInfo, QuorumMember};
    use wire::{BrokerId, Offset};

    use super::Vote;
    use crate::cluster::plan::{Part, PlanBroker};

    fn member(id: i32) -> QuorumMember {
        QuorumMember { id: BrokerId(id), log_end: Offset(9), silence: Some(Duration::ZERO) }
    }

    fn vote(voters: &[i32], observers: &[i32], fenced: &[i32], id: i32) -> Option<Vote> {
        let broker = |id: &i32| PlanBroker {
            id: BrokerId(*id),
            rack: None,
            part: if fenced.contains(id) { Part::Stays } else { Part::Shares },
        };
        let brokers: Vec<_> = voters.iter().chain(observers).map(broker).collect();
        let quorum = QuorumInfo {
            leader: Some(BrokerId(voters[0])),
            term: 1,
            high_watermark: Offset(9),
            voters: voters.iter().copied().map(member).collect(),
            observers: observers.iter().copied().map(member).collect(),
        };
        Vote::of(&quorum, &brokers, BrokerId(id)).ok()
    }

    #[test]
    fn a_vote_goes_to_a_broker_that_has_none_where_there_is_one() {
        assert_eq!(vote(&[1, 2, 3], &[4], &[], 4), Some(Vote::None));
        assert_eq!(vote(&[1, 2, 3], &[4, 5], &[4], 2), Some(Vote::Handed { to: BrokerId(5) }));
        assert_eq!(vote(&[1, 2, 3], &[4], &[4], 2), Some(Vote::Dropped { left: 2 }));
        assert_eq!(vote(&[1], &[], &[], 1), None, "the only voter");
    }
}
