//! The metadata quorum: who carries the cluster's metadata, and how far each has come (KIP-595, KIP-853).

use std::time::Duration;

use wire::messages::add_raft_voter::AddRaftVoterRequest;
use wire::messages::describe_quorum::{DescribeQuorumRequest, PartitionData, ReplicaState, TopicData};
use wire::messages::remove_raft_voter::RemoveRaftVoterRequest;
use wire::{BrokerId, Offset, Str, Uuid};

use super::{Admin, outcome};
use crate::error::Error;

const METADATA_TOPIC: &str = "__cluster_metadata";

/// The quorum as its leader sees it.
#[derive(Debug, Clone, PartialEq)]
pub struct QuorumInfo {
    /// The active controller.
    pub leader: Option<BrokerId>,
    /// The leader's term.
    pub term: i32,
    /// The offset after what a majority has.
    pub high_watermark: Offset,
    /// Who elects and is elected, in the order of their ids.
    pub voters: Vec<QuorumMember>,
    /// Who follows without a vote, in the order of their ids.
    pub observers: Vec<QuorumMember>,
}

/// A voter or an observer.
#[derive(Debug, Clone, PartialEq)]
pub struct QuorumMember {
    /// The broker.
    pub id: BrokerId,
    /// The offset after the last record that it is known to have.
    pub log_end: Offset,
    /// How long ago the leader heard of it; none when it has not lately.
    pub silence: Option<Duration>,
}

impl QuorumInfo {
    /// The leader, if it is among the voters.
    pub fn leading(&self) -> Option<&QuorumMember> {
        self.voters.iter().find(|voter| Some(voter.id) == self.leader)
    }

    /// Voters and observers.
    pub fn members(&self) -> impl Iterator<Item = &QuorumMember> {
        self.voters.iter().chain(&self.observers)
    }

    /// How many records a member lacks that the leader has.
    pub fn lag(&self, member: &QuorumMember) -> i64 {
        let end = self.leading().map_or(self.high_watermark, |leader| leader.log_end);
        (end.0 - member.log_end.0).max(0)
    }
}

impl Admin {
    /// Describes the metadata quorum. Only its leader can answer: without one there is no answer, so this
    /// waits for `wait` and not for `request.timeout.ms`, and does not try again.
    pub async fn describe_quorum(&self, wait: Duration) -> Result<QuorumInfo, Error> {
        const DOING: &str = "describing the metadata quorum";
        let topic = TopicData {
            topic_name: Str::from(METADATA_TOPIC),
            partitions: vec![PartitionData { partition_index: 0 }],
        };
        let request = DescribeQuorumRequest { topics: vec![topic] };
        let response = self.cluster.call_any_within(request, wait).await?;
        outcome(response.error_code, DOING.to_owned(), response.error_message.as_ref(), ())?;
        let partition = response.topics.into_iter().flat_map(|topic| topic.partitions).next();
        let partition = partition.ok_or_else(|| Error::Protocol {
            doing: DOING.to_owned(),
            problem: "it describes nothing".to_owned(),
        })?;
        outcome(partition.error_code, DOING.to_owned(), partition.error_message.as_ref(), ())?;
        let leader = Some(BrokerId(partition.leader_id)).filter(|id| id.0 >= 0);
        // The leader hears of itself all the time: by its entry, times are told without a look at another
        // clock.
        let is_leader = |state: &&ReplicaState| Some(BrokerId(state.replica_id)) == leader;
        let now = partition.current_voters.iter().find(is_leader).map(|state| state.last_fetch_timestamp);
        let members = |states: Vec<ReplicaState>| {
            let mut members: Vec<_> = states.into_iter().map(|state| member(&state, now)).collect();
            members.sort_by_key(|member| member.id);
            members
        };
        Ok(QuorumInfo {
            leader,
            term: partition.leader_epoch,
            high_watermark: Offset(partition.high_watermark),
            voters: members(partition.current_voters),
            observers: members(partition.observers),
        })
    }

    /// Gives a broker a vote, as soon as it has caught up with the metadata.
    pub async fn add_voter(&self, id: BrokerId) -> Result<(), Error> {
        let doing = format!("making broker {id} a voter");
        let request = AddRaftVoterRequest {
            cluster_id: None,
            timeout_ms: self.timeout_ms(),
            voter_id: id.0,
            voter_directory_id: Uuid::ZERO,
            ..Default::default()
        };
        let response = self.ask_controller(&doing, request, |response| vec![response.error_code]).await?;
        outcome(response.error_code, doing, response.error_message.as_ref(), ())
    }

    /// Takes a broker's vote away; it goes on following the metadata.
    pub async fn remove_voter(&self, id: BrokerId) -> Result<(), Error> {
        let doing = format!("taking the vote of broker {id} away");
        let request =
            RemoveRaftVoterRequest { cluster_id: None, voter_id: id.0, voter_directory_id: Uuid::ZERO };
        let response = self.ask_controller(&doing, request, |response| vec![response.error_code]).await?;
        outcome(response.error_code, doing, response.error_message.as_ref(), ())
    }
}

fn member(state: &ReplicaState, now: Option<i64>) -> QuorumMember {
    let heard = Some(state.last_fetch_timestamp).filter(|heard| *heard >= 0);
    let silence = heard.zip(now).and_then(|(heard, now)| u64::try_from((now - heard).max(0)).ok());
    QuorumMember {
        id: BrokerId(state.replica_id),
        log_end: Offset(state.log_end_offset),
        silence: silence.map(Duration::from_millis),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use wire::messages::describe_quorum::ReplicaState;
    use wire::{BrokerId, Offset};

    use super::{QuorumInfo, member};

    fn state(replica_id: i32, log_end_offset: i64, last_fetch_timestamp: i64) -> ReplicaState {
        ReplicaState { replica_id, log_end_offset, last_fetch_timestamp, ..Default::default() }
    }

    #[test]
    fn lag_and_silence_are_told_by_what_the_leader_has() {
        let now = Some(10_000);
        let quorum = QuorumInfo {
            leader: Some(BrokerId(1)),
            term: 3,
            high_watermark: Offset(90),
            voters: [state(1, 100, 10_000), state(2, 90, 9_500), state(3, 10, -1)]
                .iter()
                .map(|state| member(state, now))
                .collect(),
            observers: Vec::new(),
        };
        let lags: Vec<_> = quorum.voters.iter().map(|voter| quorum.lag(voter)).collect();
        assert_eq!(lags, [0, 10, 90]);
        let silences: Vec<_> = quorum.voters.iter().map(|voter| voter.silence).collect();
        assert_eq!(silences, [Some(Duration::ZERO), Some(Duration::from_millis(500)), None]);
    }
}
