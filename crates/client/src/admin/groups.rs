//! Consumer groups: list, describe, delete, and the offsets they committed, to be read, set and forgotten.
//!
//! A group is asked about at its coordinator; listing asks every broker.

use std::collections::BTreeMap;

use wire::messages::consumer_group_describe::ConsumerGroupDescribeRequest;
use wire::messages::delete_groups::DeleteGroupsRequest;
use wire::messages::describe_groups::{DescribeGroupsRequest, DescribedGroup};
use wire::messages::describe_share_group_offsets::{
    DescribeShareGroupOffsetsRequest, DescribeShareGroupOffsetsRequestGroup,
};
use wire::messages::list_groups::ListGroupsRequest;
use wire::messages::offset_commit::{
    OffsetCommitRequest, OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use wire::messages::offset_delete::{
    OffsetDeleteRequest, OffsetDeleteRequestPartition, OffsetDeleteRequestTopic,
};
use wire::messages::offset_fetch::OffsetFetchRequest;
use wire::messages::share_group_describe::ShareGroupDescribeRequest;
use wire::{BrokerId, ErrorCode, LeaderEpoch, Millis, Offset, PartitionId, Str, TopicPartition};

use super::{Admin, Outcomes, outcome};
use crate::api::Call;
use crate::cluster::{Lane, Topics};
use crate::consumer::decode_assignment;
use crate::error::{Error, ErrorKind};

/// What share groups are called where others name their protocol.
pub const SHARE: &str = "share";

/// A group in a listing.
#[derive(Debug, Clone, PartialEq)]
pub struct GroupListing {
    /// Its name.
    pub group_id: Str,
    /// The broker that coordinates it.
    pub coordinator: BrokerId,
    /// `consumer` for consumer groups.
    pub protocol_type: Str,
    /// Kafka's name of its state; empty when the broker is too old to say.
    pub state: Str,
    /// `classic` or `consumer`; empty when the broker is too old to say.
    pub group_type: Str,
}

/// A group.
#[derive(Debug, Clone, PartialEq)]
pub struct GroupInfo {
    /// Its name.
    pub group_id: Str,
    /// The broker that coordinates it.
    pub coordinator: BrokerId,
    /// Kafka's name of its state.
    pub state: Str,
    /// `consumer` for consumer groups.
    pub protocol_type: Str,
    /// How the members share partitions.
    pub assignor: Str,
    /// Who is in it.
    pub members: Vec<GroupMember>,
}

/// A member of a group.
#[derive(Debug, Clone, PartialEq)]
pub struct GroupMember {
    /// The id that the coordinator gave it.
    pub member_id: Str,
    /// Its own name, if it is a static member.
    pub instance_id: Option<Str>,
    /// What it calls itself.
    pub client_id: Str,
    /// Where it is.
    pub host: Str,
    /// What it reads.
    pub assignment: Vec<TopicPartition>,
}

/// How far a group has come in a partition.
#[derive(Debug, Clone, PartialEq)]
pub struct CommittedOffset {
    /// The next offset to be read.
    pub offset: Offset,
    /// The epoch of the leader that wrote the last record read.
    pub leader_epoch: LeaderEpoch,
    /// What the committer wrote beside it.
    pub metadata: Option<Str>,
}

/// An offset that a group had committed, and that was forgotten when its retention was over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExpiredOffset {
    /// The offset.
    pub offset: Offset,
    /// When it was forgotten.
    pub expired_at: Millis,
}

/// Everything that is known of a group's offsets.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct GroupOffsets {
    /// What is committed.
    pub committed: BTreeMap<TopicPartition, CommittedOffset>,
    /// What was, as far as the broker remembers; Apache Kafka's do not.
    pub expired: BTreeMap<TopicPartition, ExpiredOffset>,
    /// Records that are not done with, as the coordinator of a share group counts them; where it does not know, there is nothing.
    pub lags: BTreeMap<TopicPartition, i64>,
}

impl Admin {
    /// All groups, in the order of their names.
    pub async fn list_groups(&self) -> Result<Vec<GroupListing>, Error> {
        const DOING: &str = "listing groups";
        let map = self.cluster.retrying(DOING, || self.cluster.refresh(Topics::None)).await?;
        let mut listed = Vec::new();
        for broker in map.brokers.iter().map(|broker| BrokerId(broker.node_id)) {
            let response = self
                .cluster
                .retrying(DOING, || async {
                    let request = ListGroupsRequest::default();
                    let response = self.cluster.call(broker, Lane::Requests, request).await?;
                    outcome(response.error_code, DOING.to_owned(), None, response)
                })
                .await?;
            listed.extend(response.groups.into_iter().map(|group| GroupListing {
                group_id: group.group_id,
                coordinator: broker,
                protocol_type: group.protocol_type,
                state: group.group_state,
                group_type: group.group_type,
            }));
        }
        listed.sort_by(|left, right| left.group_id.cmp(&right.group_id));
        Ok(listed)
    }

    /// Describes groups. One that is not there is "Dead", in every version of Kafka's answer.
    pub async fn describe_groups(&self, names: &[Str]) -> Outcomes<Str, GroupInfo> {
        let mut described = Vec::with_capacity(names.len());
        for name in names {
            let classic = self.describe_group(name).await;
            let found = match &classic {
                // It may be of another kind.
                Ok(group) if group.state == *"Dead" => match self.describe_consumer_group(name).await {
                    Ok(group) => Ok(group),
                    Err(_) => self.describe_share_group(name).await.or(classic),
                },
                _ => classic,
            };
            described.push((name.clone(), found));
        }
        described
    }

    async fn describe_group(&self, name: &Str) -> Result<GroupInfo, Error> {
        let doing = format!("describing group {name}");
        let request = DescribeGroupsRequest { groups: vec![name.clone()], ..Default::default() };
        let group = self
            .ask_coordinator(name, &doing, request, |response| {
                let mut group = the_described(response.groups, &doing)?;
                if group.error_code == ErrorCode::GROUP_ID_NOT_FOUND {
                    group.error_code = ErrorCode::NONE;
                    group.group_state = Str::from("Dead");
                }
                outcome(group.error_code, doing.clone(), group.error_message.as_ref(), ())?;
                Ok(group)
            })
            .await?;
        let coordinator = self.cluster.coordinator(name).await?;
        Ok(group_info(group, coordinator))
    }

    async fn describe_consumer_group(&self, name: &Str) -> Result<GroupInfo, Error> {
        let doing = format!("describing group {name}");
        let request = ConsumerGroupDescribeRequest { group_ids: vec![name.clone()], ..Default::default() };
        let group = self
            .ask_coordinator(name, &doing, request, |response| {
                let group = the_described(response.groups, &doing)?;
                outcome(group.error_code, doing.clone(), group.error_message.as_ref(), ())?;
                Ok(group)
            })
            .await?;
        let coordinator = self.cluster.coordinator(name).await?;
        let members = group.members.into_iter().map(|member| GroupMember {
            member_id: member.member_id,
            instance_id: member.instance_id,
            client_id: member.client_id,
            host: member.client_host,
            assignment: member
                .assignment
                .topic_partitions
                .into_iter()
                .flat_map(|topic| {
                    let name = topic.topic_name;
                    let partitions = topic.partitions.into_iter().map(PartitionId);
                    partitions.map(move |id| TopicPartition::new(name.clone(), id))
                })
                .collect(),
        });
        Ok(GroupInfo {
            group_id: group.group_id,
            coordinator,
            state: group.group_state,
            protocol_type: Str::from("consumer"),
            assignor: group.assignor_name,
            members: members.collect(),
        })
    }

    async fn describe_share_group(&self, name: &Str) -> Result<GroupInfo, Error> {
        let doing = format!("describing group {name}");
        let request = ShareGroupDescribeRequest { group_ids: vec![name.clone()], ..Default::default() };
        let group = self
            .ask_coordinator(name, &doing, request, |response| {
                let group = the_described(response.groups, &doing)?;
                outcome(group.error_code, doing.clone(), group.error_message.as_ref(), ())?;
                Ok(group)
            })
            .await?;
        let coordinator = self.cluster.coordinator(name).await?;
        let members = group.members.into_iter().map(|member| GroupMember {
            member_id: member.member_id,
            instance_id: None,
            client_id: member.client_id,
            host: member.client_host,
            assignment: member
                .assignment
                .topic_partitions
                .into_iter()
                .flat_map(|topic| {
                    let name = topic.topic_name;
                    let partitions = topic.partitions.into_iter().map(PartitionId);
                    partitions.map(move |id| TopicPartition::new(name.clone(), id))
                })
                .collect(),
        });
        Ok(GroupInfo {
            group_id: group.group_id,
            coordinator,
            state: group.group_state,
            protocol_type: Str::from(SHARE),
            assignor: group.assignor_name,
            members: members.collect(),
        })
    }

    /// Where a share group is in each partition: all before is done with, and of what lies behind it all but the lag.
    pub async fn share_group_offsets(&self, name: &Str) -> Result<GroupOffsets, Error> {
        let doing = format!("reading the offsets of group {name}");
        let group = DescribeShareGroupOffsetsRequestGroup { group_id: name.clone(), topics: None };
        let request = DescribeShareGroupOffsetsRequest { groups: vec![group] };
        self.ask_coordinator(name, &doing, request, |response| {
            let mut offsets = GroupOffsets::default();
            for group in response.groups {
                outcome(group.error_code, doing.clone(), group.error_message.as_ref(), ())?;
                for topic in group.topics {
                    for partition in topic.partitions {
                        outcome(partition.error_code, doing.clone(), partition.error_message.as_ref(), ())?;
                        if partition.start_offset < 0 {
                            // Nobody has read it yet.
                            continue;
                        }
                        let id = PartitionId(partition.partition_index);
                        let start = CommittedOffset {
                            offset: Offset(partition.start_offset),
                            leader_epoch: LeaderEpoch(partition.leader_epoch),
                            metadata: None,
                        };
                        let name = TopicPartition::new(topic.topic_name.clone(), id);
                        if partition.lag >= 0 {
                            offsets.lags.insert(name.clone(), partition.lag);
                        }
                        offsets.committed.insert(name, start);
                    }
                }
            }
            Ok(offsets)
        })
        .await
    }

    /// Deletes groups that have no members.
    pub async fn delete_groups(&self, names: &[Str]) -> Outcomes<Str, ()> {
        let mut deleted = Vec::with_capacity(names.len());
        for name in names {
            let doing = format!("deleting group {name}");
            let request = DeleteGroupsRequest { groups_names: vec![name.clone()] };
            let outcome = self
                .ask_coordinator(name, &doing, request, |response| {
                    let code = response.results.first().map_or(ErrorCode::NONE, |result| result.error_code);
                    outcome(code, doing.clone(), None, ())
                })
                .await;
            deleted.push((name.clone(), outcome));
        }
        deleted
    }

    /// Everything a group has committed.
    pub async fn group_offsets(&self, name: &Str) -> Result<GroupOffsets, Error> {
        self.offsets_of(OffsetFetchRequest { group_id: name.clone(), ..Default::default() }).await
    }

    /// Everything a group has committed, once no open transaction may still change it: what one offers is waited for, up to
    /// `default.api.timeout.ms`.
    pub async fn stable_group_offsets(&self, name: &Str) -> Result<GroupOffsets, Error> {
        let request =
            OffsetFetchRequest { group_id: name.clone(), require_stable: true, ..Default::default() };
        self.offsets_of(request).await
    }

    async fn offsets_of(&self, request: OffsetFetchRequest) -> Result<GroupOffsets, Error> {
        let name = &request.group_id.clone();
        let doing = format!("reading the offsets of group {name}");
        let request = OffsetFetchRequest { topics: None, wants_expired: true, ..request };
        self.ask_coordinator(name, &doing, request, |response| {
            outcome(response.error_code, doing.clone(), None, ())?;
            let mut offsets = GroupOffsets::default();
            for topic in response.topics {
                for partition in topic.partitions {
                    outcome(partition.error_code, doing.clone(), None, ())?;
                    let id = PartitionId(partition.partition_index);
                    let place = TopicPartition::new(topic.name.clone(), id);
                    let committed = CommittedOffset {
                        offset: Offset(partition.committed_offset),
                        leader_epoch: LeaderEpoch(partition.committed_leader_epoch),
                        metadata: partition.metadata.filter(|metadata| !metadata.is_empty()),
                    };
                    if committed.offset.0 >= 0 {
                        offsets.committed.insert(place, committed);
                    } else if partition.expired_offset >= 0 {
                        let expired = ExpiredOffset {
                            offset: Offset(partition.expired_offset),
                            expired_at: Millis(partition.expired_at),
                        };
                        offsets.expired.insert(place, expired);
                    }
                }
            }
            Ok(offsets)
        })
        .await
    }

    /// Sets what a group has committed. Refused with UNKNOWN_MEMBER_ID while the group has members: only they may move its
    /// offsets then. A group that is not there is made.
    pub async fn set_group_offsets(
        &self,
        name: &Str,
        offsets: &[(TopicPartition, Offset)],
    ) -> Result<Outcomes<TopicPartition, ()>, Error> {
        let committed =
            |offset: Offset| CommittedOffset { offset, leader_epoch: LeaderEpoch::NONE, metadata: None };
        let offsets: Vec<_> =
            offsets.iter().map(|(partition, offset)| (partition.clone(), committed(*offset))).collect();
        self.commit_group_offsets(name, &offsets).await
    }

    /// As [`Admin::set_group_offsets`], with the leader's epoch and the metadata that belong to each offset.
    pub async fn commit_group_offsets(
        &self,
        name: &Str,
        offsets: &[(TopicPartition, CommittedOffset)],
    ) -> Result<Outcomes<TopicPartition, ()>, Error> {
        let doing = format!("setting offsets of group {name}");
        let mut topics: BTreeMap<Str, Vec<OffsetCommitRequestPartition>> = BTreeMap::new();
        for (partition, committed) in offsets {
            let entry = OffsetCommitRequestPartition {
                partition_index: partition.partition.0,
                committed_offset: committed.offset.0,
                committed_leader_epoch: committed.leader_epoch.0,
                committed_metadata: Some(committed.metadata.clone().unwrap_or_default()),
            };
            topics.entry(partition.topic.clone()).or_default().push(entry);
        }
        let topics = topics.into_iter().map(|(name, partitions)| OffsetCommitRequestTopic {
            name,
            partitions,
            ..Default::default()
        });
        let request = OffsetCommitRequest {
            group_id: name.clone(),
            generation_id_or_member_epoch: -1,
            retention_time_ms: -1,
            topics: topics.collect(),
            ..Default::default()
        };
        self.ask_coordinator(name, &doing, request, |response| {
            let mut outcomes = Vec::new();
            for topic in response.topics {
                for partition in topic.partitions {
                    let id = PartitionId(partition.partition_index);
                    let name = TopicPartition::new(topic.name.clone(), id);
                    let set = outcome(partition.error_code, format!("{doing} ({name})"), None, ());
                    if let Err(error) = &set
                        && error.kind() == ErrorKind::Retriable
                        && error.code() != Some(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION)
                    {
                        // Setting them all again does no harm.
                        return Err(error.clone());
                    }
                    outcomes.push((name, set));
                }
            }
            Ok(outcomes)
        })
        .await
    }

    /// Forgets what a group has committed for partitions that none of its members reads.
    pub async fn delete_group_offsets(
        &self,
        name: &Str,
        partitions: &[TopicPartition],
    ) -> Result<Outcomes<TopicPartition, ()>, Error> {
        let doing = format!("deleting offsets of group {name}");
        let mut topics: BTreeMap<Str, Vec<OffsetDeleteRequestPartition>> = BTreeMap::new();
        for partition in partitions {
            let entry = OffsetDeleteRequestPartition { partition_index: partition.partition.0 };
            topics.entry(partition.topic.clone()).or_default().push(entry);
        }
        let topics =
            topics.into_iter().map(|(name, partitions)| OffsetDeleteRequestTopic { name, partitions });
        let request = OffsetDeleteRequest { group_id: name.clone(), topics: topics.collect() };
        self.ask_coordinator(name, &doing, request, |response| {
            outcome(response.error_code, doing.clone(), None, ())?;
            let outcomes = response.topics.into_iter().flat_map(|topic| {
                let doing = &doing;
                topic.partitions.into_iter().map(move |partition| {
                    let id = PartitionId(partition.partition_index);
                    let name = TopicPartition::new(topic.name.clone(), id);
                    let outcome = outcome(partition.error_code, format!("{doing} ({name})"), None, ());
                    (name, outcome)
                })
            });
            Ok(outcomes.collect())
        })
        .await
    }

    /// Asks a group's coordinator, looking for another one when it is no longer that.
    async fn ask_coordinator<C: Call + Clone, T>(
        &self,
        group: &Str,
        doing: &str,
        request: C,
        read: impl Fn(C::Response) -> Result<T, Error>,
    ) -> Result<T, Error> {
        self.cluster
            .retrying(doing, || async {
                let response = self.cluster.call_coordinator(group, Lane::Requests, request.clone()).await?;
                let read = read(response);
                if matches!(&read, Err(error) if error.code() == Some(ErrorCode::NOT_COORDINATOR)) {
                    self.cluster.forget_coordinator(group);
                }
                read
            })
            .await
    }
}

fn group_info(group: DescribedGroup, coordinator: BrokerId) -> GroupInfo {
    let members = group.members.into_iter().map(|member| GroupMember {
        member_id: member.member_id,
        instance_id: member.group_instance_id,
        client_id: member.client_id,
        host: member.client_host,
        // Members of other protocols (Connect, say) write what only they can read.
        assignment: decode_assignment(member.member_assignment).unwrap_or_default(),
    });
    GroupInfo {
        group_id: group.group_id,
        coordinator,
        state: group.group_state,
        protocol_type: group.protocol_type,
        assignor: group.protocol_data,
        members: members.collect(),
    }
}

/// The one group of an answer that describes one.
fn the_described<G>(groups: Vec<G>, doing: &str) -> Result<G, Error> {
    groups.into_iter().next().ok_or_else(|| Error::Protocol {
        doing: doing.to_owned(),
        problem: "it describes nothing".to_owned(),
    })
}
