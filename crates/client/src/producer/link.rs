//! The way of batches to one broker and back.
//!
//! A link is one connection of the producer's own. Requests leave in the order in which they were given and their
//! answers come in that order; a link that broke reports every request it was given before it reports its end,
//! and only then is another one opened. So no batch overtakes an earlier one that is still to be heard of.

use std::collections::VecDeque;

use tokio::sync::mpsc;
use wire::messages::produce::{PartitionProduceData, ProduceRequest, ProduceResponse, TopicProduceData};
use wire::{BrokerId, Str, TopicPartition};

use super::queue::Taken;
use super::sender::Event;
use crate::api::Call;
use crate::cluster::Cluster;
use crate::connection::{Answer, Connection};
use crate::error::Error;
use crate::options::{Acks, Options};

/// The last version that does not begin a transaction in a partition by itself (KIP-890).
pub(super) const FIRST_PROTOCOL_VERSION_MAX: i16 = 11;

/// A request to be made of batches.
pub(super) struct Outgoing {
    pub(super) parts: Vec<Part>,
    pub(super) transactional_id: Option<Str>,
    pub(super) version_max: i16,
}

/// A batch in a request.
pub(super) struct Part {
    /// The place of its queue.
    pub(super) queue: usize,
    pub(super) partition: TopicPartition,
    pub(super) taken: Taken,
}

/// How a request ended.
pub(super) enum Landing {
    Answered(ProduceResponse),
    /// With acks=0 nothing more is to be heard.
    Written,
    /// The broker may have it or not.
    Unanswered(Error),
    /// It was never sent.
    Unsent,
}

/// Connects, carries requests until the connection or the sender ends, and reports.
pub(super) async fn run(
    cluster: Cluster,
    broker: BrokerId,
    mut requests: mpsc::Receiver<Outgoing>,
    events: mpsc::Sender<Event>,
) {
    // Who no longer listens has ended, and with it all that could be reported.
    let report = async |event: Event| drop(events.send(event).await);
    let connection = match cluster.dial(broker).await {
        Ok(connection) => connection,
        Err(error) => return report(Event::LinkDown { broker, error: Some(error) }).await,
    };
    report(Event::LinkUp { broker }).await;
    let mut waiting: VecDeque<(Vec<Part>, Answer<ProduceRequest>)> = VecDeque::new();
    loop {
        let (parts, landing) = tokio::select! {
            biased;
            answer = first(&mut waiting), if !waiting.is_empty() => {
                let (parts, _) = waiting.pop_front().expect("the first was answered");
                (parts, answer.map_or_else(Landing::Unanswered, Landing::Answered))
            }
            outgoing = requests.recv(), if !requests.is_closed() || !requests.is_empty() => match outgoing {
                None => continue,
                Some(outgoing) => match send(&cluster, &connection, outgoing).await {
                    (parts, Ok(answer)) => {
                        waiting.push_back((parts, answer));
                        continue;
                    }
                    (parts, Err(landing)) => (parts, landing),
                },
            },
            () = connection.closed(), if waiting.is_empty() => break,
            else => break,
        };
        let is_lost = matches!(landing, Landing::Unanswered(_));
        report(Event::Landed { broker, parts, landing }).await;
        if is_lost {
            // The next try is another connection's: on this one nobody knows what is still to come.
            connection.close("a batch was not answered");
        }
    }
    requests.close();
    while let Some(Outgoing { parts, .. }) = requests.recv().await {
        report(Event::Landed { broker, parts, landing: Landing::Unsent }).await;
    }
    cluster.broke(&connection);
    report(Event::LinkDown { broker, error: None }).await;
}

/// The oldest request's answer; may be dropped and called again.
async fn first(
    waiting: &mut VecDeque<(Vec<Part>, Answer<ProduceRequest>)>,
) -> Result<ProduceResponse, Error> {
    match waiting.front_mut() {
        Some((_, answer)) => answer.get().await,
        None => std::future::pending().await,
    }
}

async fn send(
    cluster: &Cluster,
    connection: &Connection,
    outgoing: Outgoing,
) -> (Vec<Part>, Result<Answer<ProduceRequest>, Landing>) {
    let Outgoing { mut parts, transactional_id, version_max } = outgoing;
    let version = match connection.version_up_to::<ProduceRequest>(version_max) {
        Ok(version) => version,
        Err(error) => return (parts, Err(Landing::Unanswered(error))),
    };
    if connection.is_closed() {
        return (parts, Err(Landing::Unsent));
    }
    let request = request(cluster.options(), transactional_id, &mut parts);
    let deadline = cluster.request_deadline();
    let result = match cluster.options().acks {
        Acks::None => match connection.send(request, version, deadline).await {
            Ok(()) => Err(Landing::Written),
            Err(error) => Err(Landing::Unanswered(error)),
        },
        Acks::All | Acks::Leader => {
            connection.submit(request, version, deadline).map_err(Landing::Unanswered)
        }
    };
    (parts, result)
}

fn request(options: &Options, transactional_id: Option<Str>, parts: &mut [Part]) -> ProduceRequest {
    let mut topic_data: Vec<TopicProduceData> = Vec::new();
    for Part { partition, taken, .. } in parts {
        let data = PartitionProduceData {
            index: partition.partition.0,
            records: Some(taken.batch.pack(taken.number)),
        };
        match topic_data.iter_mut().find(|topic| topic.name == partition.topic) {
            Some(topic) => topic.partition_data.push(data),
            None => topic_data.push(TopicProduceData {
                name: partition.topic.clone(),
                partition_data: vec![data],
                ..Default::default()
            }),
        }
    }
    ProduceRequest {
        transactional_id,
        acks: match options.acks {
            Acks::All => -1,
            Acks::Leader => 1,
            Acks::None => 0,
        },
        timeout_ms: i32::try_from(options.request_timeout.as_millis()).unwrap_or(i32::MAX),
        topic_data,
    }
}

/// The newest version this client sends.
pub(super) const VERSION_MAX: i16 = <ProduceRequest as Call>::VERSION_MAX;
