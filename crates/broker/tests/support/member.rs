//! What the tests of share groups have in common: a member as a client keeps it, and requests to brokers as coordinators make them.

use std::time::Instant;

use broker::clock::{Clock, SystemClock};
use bytes::Bytes;
use wire::messages::find_coordinator::FindCoordinatorRequest;
use wire::messages::incremental_alter_configs::{
    AlterConfigsResource, AlterableConfig, IncrementalAlterConfigsRequest,
};
use wire::messages::metadata::{MetadataRequest, MetadataRequestTopic};
use wire::messages::share_acknowledge::{
    AcknowledgePartition, AcknowledgeTopic, AcknowledgementBatch as SaidBatch, ShareAcknowledgeRequest,
};
use wire::messages::share_fetch::{
    AcknowledgementBatch, FetchPartition, FetchTopic, PartitionData, ShareFetchRequest, ShareFetchResponse,
};
use wire::messages::{initialize_share_group_state as initialize, read_share_group_state_summary as summary};
use wire::records::{BatchBuilder, BatchOptions, Batches};
use wire::{ErrorCode, Str, Uuid};

use crate::support::{TestBroker, TestClient, wait_until};

pub(crate) const GROUP: &str = "workers";
/// Kafka's number of a group among the resources that have settings.
const GROUP_RESOURCE: i8 = 32;

#[allow(clippy::disallowed_methods, reason = "how long a broker takes is seen from outside")]
pub(crate) fn now() -> Instant {
    Instant::now()
}

pub(crate) fn batch_of(count: usize) -> Bytes {
    let mut batch = BatchBuilder::new(BatchOptions::default());
    for index in 0..count {
        batch.append(SystemClock.now(), None, Some(format!("value {index}").as_bytes()), &[]);
    }
    batch.build()
}

pub(crate) fn topic_id(client: &mut TestClient, topic: &'static str) -> Uuid {
    let topic = MetadataRequestTopic { name: Some(topic.into()), ..Default::default() };
    let answer = client.ask(MetadataRequest { topics: Some(vec![topic]), ..Default::default() });
    answer.topics[0].topic_id
}

pub(crate) fn configure(
    client: &mut TestClient,
    configs: &[(&'static str, &'static str)],
) -> (ErrorCode, Option<Str>) {
    let configs = configs.iter().map(|(name, value)| AlterableConfig {
        name: (*name).into(),
        value: Some((*value).into()),
        ..Default::default()
    });
    let resource = AlterConfigsResource {
        resource_type: GROUP_RESOURCE,
        resource_name: GROUP.into(),
        configs: configs.collect(),
    };
    let request = IncrementalAlterConfigsRequest { resources: vec![resource], validate_only: false };
    let answer = client.ask(request).responses.remove(0);
    (answer.error_code, answer.error_message)
}

/// Has the share state of partition 0 begin, as the group coordinator does.
pub(crate) fn initialize(client: &mut TestClient, topic: Uuid, state_epoch: i32, start: i64) {
    let key = Str::from(format!("{GROUP}:{topic}:0"));
    wait_until(|| {
        let find =
            FindCoordinatorRequest { key_type: 2, coordinator_keys: vec![key.clone()], ..Default::default() };
        client.ask(find).coordinators[0].error_code.is_ok()
    });
    wait_until(|| try_initialize(client, topic, state_epoch, start) == ErrorCode::NONE);
}

pub(crate) fn try_initialize(
    client: &mut TestClient,
    topic: Uuid,
    state_epoch: i32,
    start_offset: i64,
) -> ErrorCode {
    let partition = initialize::PartitionData { partition: 0, state_epoch, start_offset };
    let topic = initialize::InitializeStateData { topic_id: topic, partitions: vec![partition] };
    let request =
        initialize::InitializeShareGroupStateRequest { group_id: GROUP.into(), topics: vec![topic] };
    client.ask(request).results[0].partitions[0].error_code
}

pub(crate) fn summary(client: &mut TestClient, topic: Uuid) -> (i64, i32) {
    let partition = summary::PartitionData { partition: 0, leader_epoch: -1 };
    let topic = summary::ReadStateSummaryData { topic_id: topic, partitions: vec![partition] };
    let request = summary::ReadShareGroupStateSummaryRequest { group_id: GROUP.into(), topics: vec![topic] };
    let answer = client.ask(request).results.remove(0).partitions.remove(0);
    assert_eq!(answer.error_code, ErrorCode::NONE);
    (answer.start_offset, answer.delivery_complete_count)
}

/// A member of the group, as a client keeps it.
pub(crate) struct Member {
    pub(crate) id: &'static str,
    pub(crate) topic: Uuid,
    pub(crate) epoch: i32,
    pub(crate) client: TestClient,
}

/// first, last, types
pub(crate) type Said<'a> = (i64, i64, &'a [i8]);

impl Member {
    pub(crate) fn new(id: &'static str, topic: Uuid, client: TestClient) -> Member {
        Member { id, topic, epoch: 0, client }
    }

    pub(crate) fn request(&mut self, records: i32, said: &[Said<'_>], wait_ms: i32) -> ShareFetchRequest {
        let batches = said.iter().map(|(first_offset, last_offset, types)| AcknowledgementBatch {
            first_offset: *first_offset,
            last_offset: *last_offset,
            acknowledge_types: types.to_vec(),
        });
        let partition = FetchPartition { partition_index: 0, acknowledgement_batches: batches.collect() };
        let topic = FetchTopic { topic_id: self.topic, partitions: vec![partition] };
        let request = ShareFetchRequest {
            group_id: Some(GROUP.into()),
            member_id: Some(self.id.into()),
            share_session_epoch: self.epoch,
            max_wait_ms: wait_ms,
            min_bytes: 1,
            max_bytes: 1024 * 1024,
            max_records: records,
            batch_size: records,
            share_acquire_mode: 1,
            topics: vec![topic],
            ..Default::default()
        };
        self.epoch += 1;
        request
    }

    pub(crate) fn ask(&mut self, records: i32, said: &[Said<'_>], wait_ms: i32) -> ShareFetchResponse {
        let request = self.request(records, said, wait_ms);
        self.client.ask(request)
    }

    pub(crate) fn fetch(&mut self, records: i32, said: &[Said<'_>]) -> PartitionData {
        let mut answer = self.ask(records, said, 10_000);
        assert_eq!((answer.error_code, answer.error_message), (ErrorCode::NONE, None));
        answer.responses.pop().map_or_else(PartitionData::default, |mut topic| topic.partitions.remove(0))
    }

    /// What the member gets: first and last offset, and how often these were delivered.
    pub(crate) fn takes(&mut self, records: i32) -> Vec<(i64, i64, i16)> {
        let data = self.fetch(records, &[]);
        assert_eq!((data.error_code, data.error_message.clone()), (ErrorCode::NONE, None));
        let acquired: Vec<_> = acquired(&data);
        let mut offsets = Vec::new();
        for batch in Batches::new(data.records).map(Result::unwrap) {
            offsets.extend(batch.records(1024).map(|record| record.unwrap().offset.0));
        }
        for (first, last, _) in &acquired {
            assert!((*first..=*last).all(|offset| offsets.contains(&offset)), "{offsets:?}");
        }
        acquired
    }

    pub(crate) fn says(&mut self, said: &[Said<'_>]) -> ErrorCode {
        let epoch = self.epoch;
        self.epoch += 1;
        self.says_in(epoch, said)
    }

    pub(crate) fn says_in(&mut self, share_session_epoch: i32, said: &[Said<'_>]) -> ErrorCode {
        let batches = said.iter().map(|(first_offset, last_offset, types)| SaidBatch {
            first_offset: *first_offset,
            last_offset: *last_offset,
            acknowledge_types: types.to_vec(),
        });
        let partition =
            AcknowledgePartition { partition_index: 0, acknowledgement_batches: batches.collect() };
        let topic = AcknowledgeTopic { topic_id: self.topic, partitions: vec![partition] };
        let answer = self.client.ask(ShareAcknowledgeRequest {
            group_id: Some(GROUP.into()),
            member_id: Some(self.id.into()),
            share_session_epoch,
            is_renew_ack: said.iter().any(|(_, _, types)| types.contains(&4)),
            topics: vec![topic],
        });
        if answer.error_code.is_ok() {
            answer.responses[0].partitions[0].error_code
        } else {
            answer.error_code
        }
    }
}

pub(crate) fn acquired(data: &PartitionData) -> Vec<(i64, i64, i16)> {
    data.acquired_records.iter().map(|run| (run.first_offset, run.last_offset, run.delivery_count)).collect()
}

/// A broker with a topic of one partition that the group reads from the beginning.
pub(crate) fn broker() -> (TestBroker, Uuid) {
    broker_with(&["group.share.min.record.lock.duration.ms=1000"])
}

/// The same with settings.
pub(crate) fn broker_with(settings: &[&str]) -> (TestBroker, Uuid) {
    let broker = TestBroker::start(&[&["share.coordinator.state.topic.num.partitions=2"], settings].concat());
    let mut client = TestClient::connect(&broker);
    client.create_topic("jobs", 1);
    assert_eq!(configure(&mut client, &[("share.auto.offset.reset", "earliest")]), (ErrorCode::NONE, None));
    let topic = topic_id(&mut client, "jobs");
    initialize(&mut client, topic, 0, -1);
    (broker, topic)
}

pub(crate) fn coordinator(client: &mut TestClient, key: &Str) -> Option<i32> {
    let request =
        FindCoordinatorRequest { key_type: 2, coordinator_keys: vec![key.clone()], ..Default::default() };
    let found = client.ask(request).coordinators.remove(0);
    found.error_code.is_ok().then_some(found.node_id)
}
