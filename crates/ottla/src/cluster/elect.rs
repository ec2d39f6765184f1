//! `ottla cluster elect`: partitions get the leaders they are to have, or any at all.

use clap::Args;
use client::{Admin, Election};
use serde_json::Value;
use wire::{ErrorCode, TopicPartition};

use super::{Named, confirm, of_controller, resolve};
use crate::failure::Failure;
use crate::output::{OutputArgs, Report, Style};

/// Elect preferred leaders, or any where there is none
#[derive(Debug, Args)]
#[command(after_help = "\
The preferred leader is the first of a partition's replicas; it is elected where it is in sync. With
--unclean, a partition that nobody leads gets whatever replica is there: records that only the others had are
lost for good.

Examples:
  ottla cluster elect                             # preferred leaders, wherever others lead
  ottla cluster elect orders returns:3
  ottla cluster elect --unclean orders:7          # its only in-sync replica is gone for good; asks first")]
pub(super) struct ElectArgs {
    /// Topics or partitions, as TOPIC or TOPIC:PARTITION [default: all]
    #[arg(value_name = "TOPIC[:PARTITION]", required_if_eq("unclean", "true"))]
    partitions: Vec<Named>,
    /// Elect a replica that is not in sync where nobody leads, and give up what it lacks
    #[arg(long)]
    unclean: bool,
    /// Do not ask
    #[arg(short, long)]
    yes: bool,
}

pub(super) async fn run(args: ElectArgs, output: OutputArgs, admin: &Admin) -> Result<(), Failure> {
    let named = match args.partitions.is_empty() {
        true => None,
        false => Some(resolve(admin, &args.partitions).await?),
    };
    let election = if args.unclean { Election::Unclean } else { Election::Preferred };
    if args.unclean {
        eprintln!("warning: records that only the lost replicas have are given up, acknowledged ones too");
        if !confirm("elect leaders that are not in sync?", args.yes)? {
            return Ok(());
        }
    }
    let outcomes = admin.elect_leaders(election, named.as_deref()).await.map_err(of_controller)?;
    let (report, overall) = report(outcomes);
    if report.is_empty() && output.style() == Style::Table {
        eprintln!("every partition is led by its preferred replica");
        return Ok(());
    }
    output.print(&report)?;
    overall
}

fn report(outcomes: client::Outcomes<TopicPartition, ()>) -> (Report, Result<(), Failure>) {
    let mut report = Report::new(&["topic", "partition", "status", "error", "tip"]);
    let mut overall = Ok(());
    for (partition, outcome) in outcomes {
        let (status, error, tip) = match &outcome {
            Ok(()) => ("ELECTED", None, None),
            Err(error) if error.code() == Some(ErrorCode::ELECTION_NOT_NEEDED) => ("NOT NEEDED", None, None),
            Err(error) => {
                overall = Err(Failure::Reported);
                ("FAILED", Some(error.to_string()), advice(error))
            }
        };
        let text = |text: Option<&str>| text.map_or(Value::Null, Value::from);
        report.row(vec![
            partition.topic.as_ref().into(),
            partition.partition.0.into(),
            status.into(),
            text(error.as_deref()),
            text(tip),
        ]);
    }
    (report.without_empty(&["error", "tip"]), overall)
}

fn advice(error: &client::Error) -> Option<&'static str> {
    match error.code()? {
        ErrorCode::PREFERRED_LEADER_NOT_AVAILABLE => {
            Some("it is not counted in or not in sync; see `ottla cluster health`")
        }
        ErrorCode::ELIGIBLE_LEADERS_NOT_AVAILABLE => Some("start one of the brokers that keep it"),
        _ => error.advice(),
    }
}

#[cfg(test)]
mod tests {
    use client::Error;
    use expect_test::expect;
    use wire::{ErrorCode, PartitionId, TopicPartition};

    use super::report;

    #[test]
    fn an_election_that_is_not_needed_is_no_failure() {
        let refused = |code| Error::Kafka { code, doing: "electing".to_owned(), message: None };
        let partition = |id| TopicPartition::new("orders", PartitionId(id));
        let not_needed = || (partition(1), Err(refused(ErrorCode::ELECTION_NOT_NEEDED)));
        let (well, overall) = report(vec![(partition(0), Ok(())), not_needed()]);
        assert!(overall.is_ok());
        expect![[r#"
            TOPIC   PARTITION  STATUS
            orders  0          ELECTED
            orders  1          NOT NEEDED
        "#]]
        .assert_eq(&well.table());
        let unavailable = Err(refused(ErrorCode::PREFERRED_LEADER_NOT_AVAILABLE));
        let (_, overall) = report(vec![not_needed(), (partition(2), unavailable)]);
        assert!(overall.is_err());
    }
}
