//! `ottla cluster quorum`: who carries the metadata, and who gets a vote or loses it.
//!
//! Neither change is asked for when it would leave voters of whom no majority is heard: the cluster could
//! then not even take that back.

use std::time::Duration;

use clap::{Args, Subcommand};
use client::{Admin, Error, QuorumInfo, QuorumMember};
use serde_json::{Value, json};
use wire::{BrokerId, ErrorCode};

use super::of_controller;
use crate::failure::Failure;
use crate::output::{self, OutputArgs, Report, Style};
use crate::topic::{key_value_table, section_text};

/// How long the leader may take to describe the quorum. A broker that finds no leader keeps the question for
/// longer.
const DESCRIBE_WAIT: Duration = Duration::from_secs(3);
/// How long a voter may take to accept a connection.
pub(super) const REACH_WAIT: Duration = Duration::from_secs(2);
/// Records that a voter may lack while new ones are on their way: the brokers let a new voter in up to this
/// lag.
pub(super) const LAG_MAX: i64 = 100;
/// Silence that is more than the time between two fetches.
const SILENCE_MAX: Duration = Duration::from_secs(5);
/// The leader begins to count anew who is heard every now and then; a second look tells who is.
const LOOKS_MAX: usize = 5;
const LOOK_PAUSE: Duration = Duration::from_millis(200);

/// What to say where no leader answers.
pub(super) const NO_CONTROLLER: &str = "no active controller: a majority of the voters must be up";

/// Show who carries the metadata; give a broker a vote or take it away
#[derive(Debug, Args)]
#[command(after_help = "\
Voters elect the active controller and have every change of the metadata before it counts: of three, one may
fail, of five two. Observers follow without a vote.

Examples:
  ottla cluster quorum                            # voters and observers, and how far each has come
  ottla cluster quorum add 4
  ottla cluster quorum remove 2")]
pub(super) struct QuorumArgs {
    #[command(subcommand)]
    command: Option<QuorumCommand>,
}

#[derive(Debug, Clone, Copy, Subcommand)]
enum QuorumCommand {
    /// Show voters and observers, and how far each has come [default]
    #[command(after_help = "\
LAG is in records of the metadata. LAST-HEARD-MS is how long ago the leader heard of the broker; a dash: not
lately.

Examples:
  ottla cluster quorum describe
  ottla cluster quorum describe --format json")]
    Describe,
    /// Give a broker a vote, once it has caught up
    #[command(after_help = "\
The broker has to run and to follow the metadata already, as every broker does that was started with the
cluster's id and controller.quorum.bootstrap.servers.

Examples:
  ottla cluster quorum add 4")]
    Add {
        /// The broker's id
        id: i32,
    },
    /// Take a broker's vote away; it goes on following the metadata
    #[command(after_help = "\
Examples:
  ottla cluster quorum remove 2")]
    Remove {
        /// The broker's id
        id: i32,
    },
}

pub(super) async fn run(args: QuorumArgs, output: OutputArgs, admin: &Admin) -> Result<(), Failure> {
    let before = describe(admin).await?;
    match args.command.unwrap_or(QuorumCommand::Describe) {
        QuorumCommand::Describe => return print(&before, output),
        QuorumCommand::Add { id } => add(admin, &before, BrokerId(id)).await?,
        QuorumCommand::Remove { id } => remove(admin, &before, BrokerId(id)).await?,
    }
    print(&describe(admin).await?, output)
}

/// The quorum, or that there is no leader to ask.
pub(super) async fn describe(admin: &Admin) -> Result<QuorumInfo, Failure> {
    match look(admin).await {
        Ok(quorum) => Ok(quorum),
        Err(Error::Timeout { .. } | Error::Disconnected { .. }) => {
            Err(Failure::failed(NO_CONTROLLER).with_advice("`ottla cluster health` shows what is known"))
        }
        Err(error) => Err(error.into()),
    }
}

/// The quorum; who is silent in it was so on every look.
pub(super) async fn look(admin: &Admin) -> Result<QuorumInfo, Error> {
    let mut quorum = admin.describe_quorum(DESCRIBE_WAIT).await?;
    for _ in 1..LOOKS_MAX {
        if quorum.members().all(is_heard) {
            break;
        }
        tokio::time::sleep(LOOK_PAUSE).await;
        let earlier = std::mem::replace(&mut quorum, admin.describe_quorum(DESCRIBE_WAIT).await?);
        for member in quorum.voters.iter_mut().chain(&mut quorum.observers) {
            let before = earlier.members().find(|before| before.id == member.id);
            member.silence = member.silence.or(before.and_then(|before| before.silence));
        }
    }
    Ok(quorum)
}

/// Whether the leader hears of a member.
pub(super) fn is_heard(member: &QuorumMember) -> bool {
    member.silence.is_some_and(|silence| silence <= SILENCE_MAX)
}

/// Gives a broker a vote, unless it has one.
pub(super) async fn add(admin: &Admin, quorum: &QuorumInfo, id: BrokerId) -> Result<(), Failure> {
    if quorum.voters.iter().any(|voter| voter.id == id) {
        eprintln!("broker {id} is a voter already");
        return Ok(());
    }
    let Some(observer) = quorum.observers.iter().find(|observer| observer.id == id) else {
        return Err(Failure::failed(format!("broker {id} does not follow the metadata")).with_advice(
            "start it with the cluster's cluster.id and controller.quorum.bootstrap.servers; \
             `ottla cluster quorum` shows who follows",
        ));
    };
    if !is_heard(observer) {
        return Err(Failure::failed(format!("broker {id} is silent")).with_advice("start it again first"));
    }
    match admin.add_voter(id).await {
        // An earlier attempt got through, and its answer did not.
        Err(error) if error.code() == Some(ErrorCode::DUPLICATE_VOTER) => Ok(()),
        outcome => outcome.map_err(of_controller),
    }
}

/// Takes a broker's vote away, if it has one.
pub(super) async fn remove(admin: &Admin, quorum: &QuorumInfo, id: BrokerId) -> Result<(), Failure> {
    if quorum.voters.iter().all(|voter| voter.id != id) {
        eprintln!("broker {id} has no vote");
        return Ok(());
    }
    check_removal(&within_reach(admin, quorum).await, id)?;
    match admin.remove_voter(id).await {
        Err(error) if error.code() == Some(ErrorCode::VOTER_NOT_FOUND) => Ok(()),
        outcome => outcome.map_err(of_controller),
    }
}

/// The quorum, with voters that do not answer here as silent ones: the leader notices a moment later who is
/// gone.
pub(super) async fn within_reach(admin: &Admin, quorum: &QuorumInfo) -> QuorumInfo {
    let mut quorum = quorum.clone();
    for voter in quorum.voters.iter_mut().filter(|voter| is_heard(voter)) {
        // One that is fenced is in nobody's list of brokers, and cannot be reached for that reason.
        if admin.reach(voter.id, REACH_WAIT).await.is_err() {
            voter.silence = None;
        }
    }
    quorum
}

/// Whether the other voters can do without this one.
pub(super) fn check_removal(quorum: &QuorumInfo, id: BrokerId) -> Result<(), Failure> {
    let others: Vec<_> = quorum.voters.iter().filter(|voter| voter.id != id).collect();
    if others.is_empty() {
        let message = format!("broker {id} is the only voter");
        return Err(
            Failure::failed(message).with_advice("give another one a vote: `ottla cluster quorum add ID`")
        );
    }
    let silent: Vec<_> = others.iter().filter(|voter| !is_heard(voter)).map(|voter| voter.id.0).collect();
    if (others.len() - silent.len()) * 2 > others.len() {
        return Ok(());
    }
    let message = format!(
        "without broker {id}, no majority of the voters would be heard: {} of {} are silent",
        silent.len(),
        others.len()
    );
    let names = output::cell(&silent.into_iter().collect());
    let advice = format!("start {names} again, or take the votes of the silent ones away first");
    Err(Failure::failed(message).with_advice(advice))
}

fn print(quorum: &QuorumInfo, output: OutputArgs) -> Result<(), Failure> {
    let (voters, observers) = (members(quorum, &quorum.voters), members(quorum, &quorum.observers));
    match output.style() {
        Style::Json => output::print_json(&json!({
            "leader": quorum.leader.map(|id| id.0),
            "term": quorum.term,
            "high_watermark": quorum.high_watermark.0,
            "voters": voters.json(),
            "observers": observers.json(),
        })),
        Style::Table => {
            let summary = key_value_table(&[
                ("leader".to_owned(), quorum.leader.map_or(Value::Null, |id| id.0.into())),
                ("term".to_owned(), quorum.term.into()),
                ("high_watermark".to_owned(), quorum.high_watermark.0.into()),
            ]);
            let mut sections = vec![("QUORUM", summary), ("VOTERS", voters.table())];
            if !observers.is_empty() {
                sections.push(("OBSERVERS", observers.table()));
            }
            output::print(&section_text(sections))
        }
    }
}

fn members(quorum: &QuorumInfo, members: &[QuorumMember]) -> Report {
    let mut report = Report::new(&["id", "log_end_offset", "lag", "last_heard_ms"]);
    for member in members {
        let silence = member.silence.and_then(|silence| u64::try_from(silence.as_millis()).ok());
        report.row(vec![
            member.id.0.into(),
            member.log_end.0.into(),
            quorum.lag(member).into(),
            silence.map_or(Value::Null, Value::from),
        ]);
    }
    report
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use client::{QuorumInfo, QuorumMember};
    use expect_test::{Expect, expect};
    use wire::{BrokerId, Offset};

    use super::check_removal;
    use crate::failure::Failure;

    #[track_caller]
    fn check(voters: &[(i32, bool)], removed: i32, expected: Expect) {
        let voter = |&(id, is_heard): &(i32, bool)| QuorumMember {
            id: BrokerId(id),
            log_end: Offset(10),
            silence: is_heard.then_some(Duration::ZERO),
        };
        let quorum = QuorumInfo {
            leader: Some(BrokerId(1)),
            term: 1,
            high_watermark: Offset(10),
            voters: voters.iter().map(voter).collect(),
            observers: Vec::new(),
        };
        let said = match check_removal(&quorum, BrokerId(removed)) {
            Ok(()) => "may go".to_owned(),
            Err(Failure::Failed { message, advice }) => format!("{message}\n{}", advice.unwrap_or_default()),
            Err(other) => format!("{other:?}"),
        };
        expected.assert_eq(&said);
    }

    #[test]
    fn a_vote_goes_only_if_a_majority_of_the_others_is_heard() {
        check(&[(1, true), (2, true), (3, true)], 3, expect!["may go"]);
        check(&[(1, true), (2, true), (3, false)], 3, expect!["may go"]);
        check(
            &[(1, true), (2, true), (3, false)],
            2,
            expect![[r#"
                without broker 2, no majority of the voters would be heard: 1 of 2 are silent
                start 3 again, or take the votes of the silent ones away first"#]],
        );
        check(
            &[(1, true)],
            1,
            expect![[r#"
                broker 1 is the only voter
                give another one a vote: `ottla cluster quorum add ID`"#]],
        );
    }
}
