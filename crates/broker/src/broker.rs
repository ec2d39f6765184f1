//! What the handlers share: one broker's settings, metadata, partitions and coordinators, behind one pointer.
//! It is made once by `node.rs` and never replaced; what changes in it changes behind its own lock or pointer.

use std::sync::Arc;
use std::sync::atomic::AtomicI64;

use arc_swap::ArcSwap;
use state::metadata::{ConfigResource, Image};
use storage::{DataDir, LogConfig};
use tokio::sync::watch;
use wire::{BrokerId, Str};

use crate::clock::Clock;
use crate::context::RequestContext;
use crate::coordinator::{GroupCoordinator, OFFSETS_TOPIC};
use crate::descriptors::Descriptors;
use crate::fetch_session::FetchSessions;
use crate::flush::Flusher;
use crate::metadata::Metadata;
use crate::metrics::{BrokerState, Metrics};
use crate::partitions::Partitions;
use crate::producer_ids::ProducerIds;
use crate::settings::Settings;
use crate::topics::{TopicError, Topics};
use crate::unpacking::Unpacking;

/// Everything the handlers share.
pub(crate) struct Broker {
    pub(crate) node_id: BrokerId,
    pub(crate) cluster_id: Str,
    pub(crate) settings: ArcSwap<Settings>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) data_dir: Arc<DataDir>,
    pub(crate) metadata: Metadata,
    pub(crate) partitions: Partitions,
    pub(crate) topics: Topics,
    pub(crate) unpacking: Unpacking,
    pub(crate) descriptors: Descriptors,
    pub(crate) flusher: Arc<Flusher>,
    pub(crate) fetch_sessions: FetchSessions,
    pub(crate) groups: Arc<GroupCoordinator>,
    pub(crate) producer_ids: ProducerIds,
    pub(crate) metrics: Metrics,
    /// The epoch that this start of the broker was registered with.
    pub(crate) epoch: AtomicI64,
    pub(crate) stop: watch::Sender<bool>,
}

impl Broker {
    /// The settings as of now; dynamic ones change.
    pub(crate) fn settings(&self) -> arc_swap::Guard<Arc<Settings>> {
        self.settings.load()
    }

    /// Takes over the dynamic settings that the metadata holds.
    pub(crate) fn apply_dynamic_settings(&self) {
        let image = self.metadata.image();
        let cluster_default = ConfigResource::cluster_default();
        let this_broker = ConfigResource::broker(self.node_id);
        let settings =
            self.settings.load().with_dynamic(image.configs(&cluster_default), image.configs(&this_broker));
        self.settings.store(Arc::new(settings));
    }

    /// Where a client is told to find this broker: as the listener advertises it, else as the client dialled it.
    pub(crate) fn advertised(&self, context: &RequestContext) -> (Str, i32) {
        let settings = self.settings();
        let listener =
            settings.listeners().iter().find(|listener| *listener.name == *context.connection.listener);
        match listener.and_then(|listener| listener.advertised.as_ref()) {
            Some(advertised) => (Str::copy_from(&advertised.host), i32::from(advertised.port)),
            None => {
                let dialled = context.connection.local;
                (Str::from(dialled.ip().to_canonical().to_string()), i32::from(dialled.port()))
            }
        }
    }

    /// True for topics that the broker writes by itself.
    pub(crate) fn is_internal_topic(&self, topic: &str) -> bool {
        topic == OFFSETS_TOPIC
    }

    /// How a topic's logs are kept.
    pub(crate) fn log_config(&self, image: &Image, topic: &Str) -> LogConfig {
        let resource = ConfigResource::topic(topic.clone());
        self.settings().log_config(image.configs(&resource))
    }

    /// Makes the offsets topic if it is not there yet.
    pub(crate) async fn ensure_offsets_topic(self: &Arc<Self>) -> Result<(), TopicError> {
        if self.groups.is_ready() {
            return Ok(());
        }
        self.topics.ensure_internal(self, OFFSETS_TOPIC).await?;
        self.take_over_groups();
        Ok(())
    }

    /// Hands the offsets topic to the coordinator, if there is one.
    pub(crate) fn take_over_groups(&self) {
        let image = self.metadata.image();
        let Some(topic) = image.topic(OFFSETS_TOPIC) else { return };
        let hosted = self.partitions.load_full();
        let partitions = topic.partitions().map(|(id, _)| hosted.partition(OFFSETS_TOPIC, id).cloned());
        self.groups.take_over(partitions.collect());
    }

    /// Notes what readers may see, for Kafka's tools and brokers that open the directory: a lone replica needs no such note.
    pub(crate) fn checkpoint_high_watermarks(&self) {
        let hosted = self.partitions.load_full();
        let marks = hosted.partitions().map(|partition| (partition.id.clone(), partition.high_watermark()));
        if let Err(error) = self.data_dir.checkpoint_high_watermarks(marks.collect()) {
            tracing::error!(%error, "high watermarks could not be written");
        }
    }

    /// What the metrics page shows besides what is counted.
    pub(crate) fn state(&self) -> BrokerState {
        let hosted = self.partitions.load_full();
        let mut state = BrokerState {
            groups: self.groups.states(),
            flushes_queued: self.flusher.queued(),
            fetch_sessions: self.fetch_sessions.len(),
            ..BrokerState::default()
        };
        for partition in hosted.partitions() {
            state.partitions += 1;
            state.partitions_offline += usize::from(partition.log.is_offline());
            state.fetches_parked += partition.waiting.fetches_parked();
            *state.log_bytes.entry(partition.id.topic.clone()).or_default() += partition.log.size_bytes();
        }
        state
    }

    /// True once the broker has begun to stop.
    pub(crate) fn is_stopping(&self) -> bool {
        *self.stop.borrow()
    }
}

/// Waits until the broker stops.
pub(crate) async fn stopped(stop: &mut watch::Receiver<bool>) {
    // An error says that the sender is gone, and with it the broker.
    let _ = stop.wait_for(|stopping| *stopping).await;
}
