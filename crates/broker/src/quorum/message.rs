//! Raft's messages in the wire's own bounded codec: nothing that comes from a socket is parsed by anything else.

use bytes::Bytes;
use raft::eraftpb::{ConfState, Entry, EntryType, Message, MessageType, Snapshot, SnapshotMetadata};
use wire::messages::quorum_messages::{QuorumEntry, QuorumMessage, QuorumSnapshot};

/// Every kind of message that nodes send each other; the others are raft's own.
const KINDS: [MessageType; 13] = [
    MessageType::MsgAppend,
    MessageType::MsgAppendResponse,
    MessageType::MsgRequestVote,
    MessageType::MsgRequestVoteResponse,
    MessageType::MsgSnapshot,
    MessageType::MsgHeartbeat,
    MessageType::MsgHeartbeatResponse,
    MessageType::MsgTransferLeader,
    MessageType::MsgTimeoutNow,
    MessageType::MsgReadIndex,
    MessageType::MsgReadIndexResp,
    MessageType::MsgRequestPreVote,
    MessageType::MsgRequestPreVoteResponse,
];

/// A message as it is sent.
pub(super) fn encode(message: &Message) -> QuorumMessage {
    let entries = message.entries.iter().map(|entry| QuorumEntry {
        kind: entry.get_entry_type() as i8,
        term: entry.term as i64,
        index: entry.index as i64,
        data: entry.data.clone(),
        context: entry.context.clone(),
    });
    QuorumMessage {
        kind: message.get_msg_type() as i8,
        term: message.term as i64,
        log_term: message.log_term as i64,
        index: message.index as i64,
        commit: message.commit as i64,
        commit_term: message.commit_term as i64,
        reject: message.reject,
        reject_hint: message.reject_hint as i64,
        request_snapshot: message.request_snapshot as i64,
        priority: message.priority,
        context: message.context.clone(),
        entries: entries.collect(),
        snapshot: message.snapshot.as_ref().map(encode_snapshot).unwrap_or_default(),
    }
}

fn encode_snapshot(snapshot: &Snapshot) -> QuorumSnapshot {
    let metadata = snapshot.get_metadata();
    let conf = metadata.get_conf_state();
    let ids = |ids: &[u64]| ids.iter().map(|id| *id as i64).collect();
    QuorumSnapshot {
        index: metadata.index as i64,
        term: metadata.term as i64,
        voters: ids(&conf.voters),
        learners: ids(&conf.learners),
        voters_outgoing: ids(&conf.voters_outgoing),
        learners_next: ids(&conf.learners_next),
        auto_leave: conf.auto_leave,
        data: snapshot.data.clone(),
    }
}

/// A message as it came; `None` for one that no node sends.
pub(super) fn decode(message: QuorumMessage, from: u64, to: u64) -> Option<Message> {
    let kind = KINDS.into_iter().find(|kind| *kind as i8 == message.kind)?;
    let entries = message.entries.into_iter().map(|entry| {
        let mut decoded = Entry {
            term: unsigned(entry.term)?,
            index: unsigned(entry.index)?,
            data: owned(&entry.data),
            context: owned(&entry.context),
            ..Entry::default()
        };
        decoded.set_entry_type(match entry.kind {
            0 => EntryType::EntryNormal,
            1 => EntryType::EntryConfChange,
            2 => EntryType::EntryConfChangeV2,
            _ => return None,
        });
        Some(decoded)
    });
    let mut decoded = Message {
        from,
        to,
        term: unsigned(message.term)?,
        log_term: unsigned(message.log_term)?,
        index: unsigned(message.index)?,
        commit: unsigned(message.commit)?,
        commit_term: unsigned(message.commit_term)?,
        reject: message.reject,
        reject_hint: unsigned(message.reject_hint)?,
        request_snapshot: unsigned(message.request_snapshot)?,
        priority: message.priority,
        context: owned(&message.context),
        entries: entries.collect::<Option<Vec<_>>>()?.into(),
        ..Message::default()
    };
    decoded.set_msg_type(kind);
    // Without entries between them, indexes would be believed that nobody has.
    let is_contiguous = decoded.entries.windows(2).all(|pair| pair[0].index + 1 == pair[1].index);
    let starts_right =
        decoded.entries.first().is_none_or(|first| Some(first.index) == decoded.index.checked_add(1));
    if !is_contiguous || !starts_right {
        return None;
    }
    if kind == MessageType::MsgSnapshot {
        decoded.set_snapshot(decode_snapshot(&message.snapshot)?);
    }
    Some(decoded)
}

fn decode_snapshot(snapshot: &QuorumSnapshot) -> Option<Snapshot> {
    let ids = |ids: &[i64]| ids.iter().map(|id| unsigned(*id)).collect::<Option<Vec<u64>>>();
    let conf = ConfState {
        voters: ids(&snapshot.voters)?,
        learners: ids(&snapshot.learners)?,
        voters_outgoing: ids(&snapshot.voters_outgoing)?,
        learners_next: ids(&snapshot.learners_next)?,
        auto_leave: snapshot.auto_leave,
        ..ConfState::default()
    };
    let mut metadata = SnapshotMetadata {
        index: unsigned(snapshot.index)?,
        term: unsigned(snapshot.term)?,
        ..SnapshotMetadata::default()
    };
    metadata.set_conf_state(conf);
    let mut decoded = Snapshot { data: owned(&snapshot.data), ..Snapshot::default() };
    decoded.set_metadata(metadata);
    Some(decoded)
}

fn unsigned(value: i64) -> Option<u64> {
    u64::try_from(value).ok()
}

/// A copy: a slice would keep the whole frame for as long as the entry is in memory.
fn owned(bytes: &Bytes) -> Bytes {
    Bytes::copy_from_slice(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_arrives_as_it_was_sent() {
        let entry = Entry { index: 8, term: 3, data: Bytes::from_static(b"x"), ..Entry::default() };
        let mut message = Message {
            from: 1,
            to: 2,
            term: 3,
            log_term: 2,
            index: 7,
            commit: 6,
            reject_hint: 5,
            entries: vec![entry].into(),
            context: Bytes::from_static(b"c"),
            ..Message::default()
        };
        message.set_msg_type(MessageType::MsgAppend);
        assert_eq!(decode(encode(&message), 1, 2), Some(message.clone()));
        message.entries[0].index = 9;
        assert_eq!(decode(encode(&message), 1, 2), None, "an entry is missing");
    }

    #[test]
    fn what_no_node_sends_is_not_heard() {
        let mut message = Message::default();
        message.set_msg_type(MessageType::MsgPropose);
        assert_eq!(decode(encode(&message), 1, 2), None);
        assert_eq!(decode(QuorumMessage { term: -1, kind: 3, ..QuorumMessage::default() }, 1, 2), None);
    }
}
