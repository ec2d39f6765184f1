//! The awkward corners of the protocol, byte by byte.

mod support;

use bytes::Bytes;
use support::hex;
use wire::messages::api_versions::{
    ApiVersion, ApiVersionsRequest, ApiVersionsResponse, FinalizedFeatureKey, SupportedFeatureKey,
};
use wire::messages::describe_topic_partitions::{Cursor, DescribeTopicPartitionsRequest, TopicRequest};
use wire::messages::fetch::{
    FetchRequest, FetchResponse, FetchableTopicResponse, PartitionData, ReplicaState,
};
use wire::messages::metadata::{MetadataRequest, MetadataRequestTopic};
use wire::messages::produce::{PartitionProduceData, ProduceRequest, TopicProduceData};
use wire::{
    ApiKey, DecodeError, Decoder, Encoder, ErrorCode, Frame, Message, Request, RequestHeader, Response,
    ResponseHeader, Str, Uuid,
};

/// The message is these bytes in this version, and these bytes are the message.
fn check<M: Message + PartialEq + std::fmt::Debug>(message: &M, version: i16, bytes: &str) {
    let mut e = Encoder::new();
    message.encode(&mut e, version);
    let written = e.into_bytes();
    assert_eq!(written, hex(bytes), "v{version}: {written:02x?}");
    let mut d = Decoder::new(Bytes::from(hex(bytes)));
    assert_eq!(M::decode(&mut d, version).as_ref(), Ok(message), "v{version}");
    assert_eq!(d.remaining(), 0);
}

fn decode<M: Message>(version: i16, bytes: &str) -> Result<M, DecodeError> {
    M::decode(&mut Decoder::new(Bytes::from(hex(bytes))), version)
}

fn api_versions() -> ApiVersionsResponse {
    ApiVersionsResponse {
        api_keys: vec![ApiVersion { api_key: 1, min_version: 4, max_version: 18 }],
        ..ApiVersionsResponse::default()
    }
}

#[test]
fn api_versions_in_each_of_its_shapes() {
    check(&api_versions(), 0, "0000 00000001 0001 0004 0012");
    check(&api_versions(), 1, "0000 00000001 0001 0004 0012 00000000");
    check(&api_versions(), 2, "0000 00000001 0001 0004 0012 00000000");
    check(&api_versions(), 3, "0000 02 0001 0004 0012 00 00000000 00");
    check(&api_versions(), 4, "0000 02 0001 0004 0012 00 00000000 00");
    let refused = ApiVersionsResponse { error_code: ErrorCode::UNSUPPORTED_VERSION, ..api_versions() };
    check(&refused, 0, "0023 00000001 0001 0004 0012");
    check(&ApiVersionsRequest::default(), 0, "");
    let named = ApiVersionsRequest { client_software_name: "a".into(), client_software_version: "1".into() };
    check(&named, 3, "02 61 02 31 00");
}

#[test]
fn tags_that_hold_their_default_are_not_sent() {
    // librdkafka before 2.2 cannot skip the tags of ApiVersions.
    let features = ApiVersionsResponse {
        supported_features: vec![SupportedFeatureKey { name: "f".into(), min_version: 0, max_version: 1 }],
        finalized_features_epoch: 5,
        finalized_features: vec![FinalizedFeatureKey {
            name: "f".into(),
            max_version_level: 1,
            min_version_level: 1,
        }],
        ..api_versions()
    };
    check(
        &features,
        3,
        "0000 02 0001 0004 0012 00 00000000
         03 00 08 02 02 66 0000 0001 00
            01 08 0000000000000005
            02 08 02 02 66 0001 0001 00",
    );
    // One away from all defaults, a struct of defaults between: two tags.
    let request = FetchRequest { cluster_id: Some("c".into()), ..FetchRequest::default() };
    check(&request, 16, "00000000 00000000 7fffffff 00 00000000 ffffffff 01 01 01 01 00 02 02 63");
    let request = FetchRequest {
        replica_state: ReplicaState { replica_id: 1, replica_epoch: 2 },
        ..FetchRequest::default()
    };
    check(
        &request,
        16,
        "00000000 00000000 7fffffff 00 00000000 ffffffff 01 01 01 01 01 0d 00000001 0000000000000002 00",
    );
}

#[test]
fn null_and_empty_are_two_things_where_the_version_has_both() {
    let all = MetadataRequest { topics: None, ..MetadataRequest::default() };
    let none = MetadataRequest { topics: Some(vec![]), ..MetadataRequest::default() };
    check(&all, 1, "ffffffff");
    check(&none, 1, "00000000");
    check(&all, 9, "00 01 00 00 00");
    check(&none, 9, "01 01 00 00 00");
    // Version 0 has no null; its empty array means all topics.
    let mut e = Encoder::new();
    all.encode(&mut e, 0);
    assert_eq!(e.into_bytes(), hex("00000000"));
    assert_eq!(decode::<MetadataRequest>(0, "ffffffff"), Err(DecodeError::UnexpectedNull));
    // A topic by id has no name, from version 10 on.
    let by_id = MetadataRequest {
        topics: Some(vec![MetadataRequestTopic { topic_id: Uuid::from_u128(1), name: None }]),
        ..MetadataRequest::default()
    };
    check(&by_id, 12, "02 00000000000000000000000000000001 00 00 01 00 00");
    assert_eq!(decode::<MetadataRequest>(9, "02 00 00 01 00 00 00"), Err(DecodeError::UnexpectedNull));
}

#[test]
fn a_nullable_struct_says_first_whether_it_is_there() {
    let first = DescribeTopicPartitionsRequest {
        topics: vec![TopicRequest { name: "t".into() }],
        ..DescribeTopicPartitionsRequest::default()
    };
    check(&first, 0, "02 02 74 00 000007d0 ff 00");
    let cursor = Some(Box::new(Cursor { topic_name: "t".into(), partition_index: 3 }));
    check(
        &DescribeTopicPartitionsRequest { cursor, ..first },
        0,
        "02 02 74 00 000007d0 01 02 74 00000003 00 00",
    );
}

#[test]
fn compact_lengths_are_one_higher_and_grow_by_seven_bits() {
    for (len, length) in
        [(0, "01"), (1, "02"), (126, "7f"), (127, "8001"), (16_382, "ff7f"), (16_383, "808001")]
    {
        let name: String = "x".repeat(len);
        let mut e = Encoder::new();
        let request =
            ApiVersionsRequest { client_software_name: name.into(), ..ApiVersionsRequest::default() };
        request.encode(&mut e, 3);
        let written = e.into_bytes();
        assert_eq!(written[..length.len() / 2], hex(length));
        assert_eq!(ApiVersionsRequest::decode(&mut Decoder::new(written), 3), Ok(request));
    }
}

#[test]
fn strings_end_at_32767_bytes_in_every_version() {
    let long = "é".repeat(20_000);
    let request = ApiVersionsRequest { client_software_name: long.into(), ..ApiVersionsRequest::default() };
    let mut e = Encoder::new();
    request.encode(&mut e, 3);
    let cut = ApiVersionsRequest::decode(&mut Decoder::new(e.into_bytes()), 3).unwrap();
    assert_eq!(cut.client_software_name.len(), 32_766, "cut between characters");
    let mut longer = hex("818002");
    longer.resize(3 + 32_768, b'x');
    let refused = ApiVersionsRequest::decode(&mut Decoder::new(Bytes::from(longer)), 3);
    assert_eq!(refused, Err(DecodeError::StringTooLong(32_768)));
}

#[test]
fn unknown_tagged_fields_are_skipped_and_lying_ones_refused() {
    // Two unknown tags, one of them empty, around nothing.
    let skipped = decode::<ApiVersionsRequest>(3, "01 01 02 63 03 010203 7f 00");
    assert_eq!(skipped, Ok(ApiVersionsRequest::default()));
    assert!(matches!(
        decode::<ApiVersionsRequest>(3, "01 01 01 63 09 0102"),
        Err(DecodeError::Truncated { .. })
    ));
    // FetchRequest v16, tag 0: its string is one byte shorter than its size.
    let lying = "00000000 00000000 7fffffff 00 00000000 ffffffff 01 01 01 01 00 03 02 63 00";
    assert_eq!(decode::<FetchRequest>(16, lying), Err(DecodeError::TagSize { tag: 0 }));
    // A tag of a later version is unknown in an earlier one: replica state comes with version 15.
    let early = "ffffffff 00000000 00000000 7fffffff 00 00000000 ffffffff 01 01 01 01 01 01 00";
    assert_eq!(decode::<FetchRequest>(14, early), Ok(FetchRequest::default()));
}

#[test]
fn malformed_primitives_are_refused() {
    let name = |bytes| decode::<ApiVersionsRequest>(3, bytes).unwrap_err();
    assert_eq!(name("00 01 00"), DecodeError::UnexpectedNull);
    assert_eq!(name("03 c328 01 00"), DecodeError::InvalidUtf8);
    assert_eq!(name("ffffffffff 01"), DecodeError::InvalidVarint);
    assert_eq!(name("8080808080 01"), DecodeError::InvalidVarint);
    assert_eq!(decode::<MetadataRequest>(0, "fffffffe"), Err(DecodeError::NegativeLength(-2)));
    let unsupported = DecodeError::UnsupportedVersion { message: "FetchRequest", version: 3 };
    assert_eq!(decode::<FetchRequest>(3, ""), Err(unsupported));
}

#[test]
fn request_headers_with_and_without_tags() {
    let header = |api: ApiKey, api_version, client_id: Option<&'static str>| RequestHeader {
        api_key: api.code(),
        api_version,
        correlation_id: 7,
        client_id: client_id.map(Str::from),
    };
    for (header, bytes) in [
        (header(ApiKey::Fetch, 11, Some("me")), "0001 000b 00000007 0002 6d65"),
        (header(ApiKey::Fetch, 11, None), "0001 000b 00000007 ffff"),
        // The client id keeps its old length in a header with tags.
        (header(ApiKey::Fetch, 12, Some("me")), "0001 000c 00000007 0002 6d65 00"),
        (header(ApiKey::ApiVersions, 3, Some("me")), "0012 0003 00000007 0002 6d65 00"),
    ] {
        let mut d = Decoder::new(Bytes::from(hex(bytes)));
        assert_eq!(RequestHeader::decode(&mut d), Ok(header));
        assert_eq!(d.remaining(), 0);
    }
    // An API nobody knows can still be named in the refusal.
    let mut d = Decoder::new(Bytes::from(hex("7fff 0063 00000007 0002 6d65 ffff")));
    assert_eq!(RequestHeader::decode(&mut d).map(|header| header.api_key), Ok(0x7fff));
}

#[test]
fn response_headers_of_api_versions_never_have_tags() {
    let response = Response::from(api_versions());
    for version in ApiKey::ApiVersions.versions() {
        assert_eq!(ApiKey::ApiVersions.response_header_version(version), 0);
        let frame = Frame::response(7, ApiKey::ApiVersions, version, &response).unwrap().to_bytes();
        assert_eq!(frame[4..10], hex("00000007 0000"), "correlation id, then the error code");
    }
    assert_eq!(ApiKey::Fetch.response_header_version(11), 0);
    assert_eq!(ApiKey::Fetch.response_header_version(12), 1);
    assert_eq!(ApiKey::OffsetDelete.request_header_version(0), 1);
}

#[test]
fn frames_begin_with_their_length_and_share_large_payloads() {
    let records = Bytes::from(vec![7; 10_000]);
    let request = Request::from(ProduceRequest {
        acks: -1,
        timeout_ms: 1000,
        topic_data: vec![TopicProduceData {
            name: "t".into(),
            partition_data: vec![PartitionProduceData { index: 0, records: Some(records.clone()) }],
            ..TopicProduceData::default()
        }],
        ..ProduceRequest::default()
    });
    let header =
        RequestHeader { api_key: 0, api_version: 9, correlation_id: 1, client_id: Some(Str::from("c")) };
    let frame = Frame::request(&header, &request);
    assert_eq!(frame.chunks[1].bytes().as_ptr(), records.as_ptr());
    let bytes = frame.to_bytes();
    assert_eq!(bytes.len(), frame.len());
    assert_eq!(bytes[..4], (frame.len() as i32 - 4).to_be_bytes());
    let mut d = Decoder::new(bytes.slice(4..));
    assert_eq!(RequestHeader::decode(&mut d), Ok(header));
    let decoded = Request::decode_from(ApiKey::Produce, 9, &mut d).unwrap();
    assert_eq!(decoded, request);
    let Request::Produce(decoded) = decoded else { unreachable!() };
    let slice = decoded.topic_data[0].partition_data[0].records.as_ref().unwrap();
    assert!(bytes.as_ptr_range().contains(&slice.as_ptr()), "a slice of the frame");

    let response = Response::from(FetchResponse {
        responses: vec![FetchableTopicResponse {
            topic: "t".into(),
            partitions: vec![PartitionData {
                records: Some(records.clone().into()),
                ..PartitionData::default()
            }],
            ..FetchableTopicResponse::default()
        }],
        ..FetchResponse::default()
    });
    let frame = Frame::response(5, ApiKey::Fetch, 12, &response).unwrap();
    assert_eq!(frame.chunks.len(), 3);
    let mut d = Decoder::new(frame.to_bytes().slice(4..));
    assert_eq!(ResponseHeader::decode(&mut d, ApiKey::Fetch, 12), Ok(ResponseHeader { correlation_id: 5 }));
    assert_eq!(Response::decode_from(ApiKey::Fetch, 12, &mut d), Ok(response));
}
