//! The AWS SDK for Rust against the simulator: what the protocol says arrives as the SDK's own types and errors.

use std::collections::{BTreeMap, BTreeSet};

use aws_sdk_dynamodb::primitives::Blob;
use aws_sdk_dynamodb::types::{
    AttributeDefinition, AttributeValue, BillingMode, ConditionCheck, KeySchemaElement, KeyType, Put, PutRequest,
    ScalarAttributeType, StreamSpecification, StreamViewType, TransactWriteItem, WriteRequest,
};
use aws_sdk_dynamodbstreams::types::{OperationType, ShardFilter, ShardFilterType, ShardIteratorType};
use serde_json::json;

use crate::support::dynamodb::{Service, simulator};

async fn table(service: &Service) -> String {
    let attribute = |name: &str| {
        AttributeDefinition::builder().attribute_name(name).attribute_type(ScalarAttributeType::S).build().unwrap()
    };
    let key = |name: &str, kind| KeySchemaElement::builder().attribute_name(name).key_type(kind).build().unwrap();
    let stream = StreamSpecification::builder().stream_enabled(true).stream_view_type(StreamViewType::NewImage);
    let made = service
        .tables()
        .create_table()
        .table_name("tab")
        .attribute_definitions(attribute("HashKey"))
        .attribute_definitions(attribute("FullPath"))
        .key_schema(key("HashKey", KeyType::Hash))
        .key_schema(key("FullPath", KeyType::Range))
        .billing_mode(BillingMode::PayPerRequest)
        .stream_specification(stream.build().unwrap())
        .send()
        .await
        .unwrap();
    made.table_description.unwrap().latest_stream_arn.unwrap()
}

fn text(text: impl Into<String>) -> AttributeValue {
    AttributeValue::S(text.into())
}

fn put(path: &str, value: u64) -> Put {
    Put::builder()
        .table_name("tab")
        .item("HashKey", text("teleport"))
        .item("FullPath", text(path))
        .item("n", AttributeValue::N(value.to_string()))
        .build()
        .unwrap()
}

async fn write(client: &aws_sdk_dynamodb::Client, path: &str, value: u64) {
    client.put_item().table_name("tab").set_item(Some(put(path, value).item)).send().await.unwrap();
}

/// What a follower saw: each shard's records, as path and value, in order.
#[derive(Default)]
struct Seen {
    records: BTreeMap<String, Vec<(String, u64)>>,
    parents: BTreeMap<String, String>,
    ended: BTreeSet<String>,
}

/// Reads every shard that is listed, from its beginning to where there is nothing more.
async fn follow(service: &Service, arn: &str) -> Seen {
    let client = service.streams();
    let mut seen = Seen::default();
    let mut after = None;
    loop {
        let page = client.describe_stream().stream_arn(arn).set_exclusive_start_shard_id(after).send().await.unwrap();
        let page = page.stream_description.unwrap();
        for shard in page.shards() {
            let id = shard.shard_id().unwrap().to_owned();
            if let Some(parent) = shard.parent_shard_id() {
                seen.parents.insert(id.clone(), parent.to_owned());
            }
            let iterator = client.get_shard_iterator().stream_arn(arn).shard_id(&id);
            let iterator = iterator.shard_iterator_type(ShardIteratorType::TrimHorizon).send().await.unwrap();
            let mut next = iterator.shard_iterator;
            let records = seen.records.entry(id.clone()).or_default();
            let mut empty = 0;
            while let Some(iterator) = next.take() {
                service.advance(1);
                let page = client.get_records().shard_iterator(iterator).send().await.unwrap();
                empty = if page.records().is_empty() { empty + 1 } else { 0 };
                for record in page.records() {
                    let image = record.dynamodb().unwrap().new_image().unwrap();
                    let path = image["FullPath"].as_s().unwrap().clone();
                    records.push((path, image["n"].as_n().unwrap().parse().unwrap()));
                }
                next = page.next_shard_iterator;
                if next.is_none() {
                    seen.ended.insert(id.clone());
                } else if empty > 10 {
                    break;
                }
            }
        }
        after = page.last_evaluated_shard_id;
        if after.is_none() {
            return seen;
        }
    }
}

impl Seen {
    /// Values of each path along the lineage, parents before children.
    fn by_path(&self) -> BTreeMap<String, Vec<u64>> {
        let depth = |id: &String| std::iter::successors(Some(id), |id| self.parents.get(*id)).count();
        let mut shards: Vec<&String> = self.records.keys().collect();
        shards.sort_by_key(|id| depth(id));
        let mut paths: BTreeMap<String, Vec<u64>> = BTreeMap::new();
        for (path, value) in shards.into_iter().flat_map(|id| &self.records[id]) {
            paths.entry(path.clone()).or_default().push(*value);
        }
        paths
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_whole_and_in_order_along_splits_rotations_empty_pages_and_late_records() {
    for seed in 0..3 {
        let options = json!({
            "seed": seed, "shards": 2, "rotate_every_seconds": 300, "split_permille": 300, "late_milliseconds": 4000,
            "faults": {"empty_page": 200, "short_page": 200},
        });
        let service = simulator(&options);
        let arn = table(&service).await;
        let client = service.tables();
        for round in 0..40u64 {
            for key in 0..7 {
                write(&client, &format!("teleport/{key}"), round).await;
            }
            service.advance(60);
        }
        let seen = follow(&service, &arn).await;
        assert!(seen.records.len() > 10 && !seen.ended.is_empty(), "seed {seed}: {} shards", seen.records.len());
        let expected: Vec<u64> = (0..40).collect();
        let paths = seen.by_path();
        assert_eq!(paths.len(), 7, "seed {seed}");
        assert!(paths.values().all(|values| *values == expected), "seed {seed}: {paths:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn children_are_found_by_their_parent() {
    let service = simulator(&json!({}));
    let arn = table(&service).await;
    let client = service.streams();
    let listed =
        |filter: Option<ShardFilter>| client.describe_stream().stream_arn(&arn).set_shard_filter(filter).send();
    let first = listed(None).await.unwrap().stream_description.unwrap().shards()[0].shard_id().unwrap().to_owned();
    service.simulate("split", &json!({ "table": "tab" }));
    let filter = ShardFilter::builder().r#type(ShardFilterType::ChildShards).shard_id(&first).build();
    let children = listed(Some(filter)).await.unwrap().stream_description.unwrap();
    assert_eq!(children.shards().len(), 2);
    assert!(children.shards().iter().all(|shard| shard.parent_shard_id() == Some(&first)));
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_are_the_sdks_own_types() {
    let service = simulator(&json!({ "rotate_every_seconds": 0 }));
    let arn = table(&service).await;
    let (tables, streams) = (service.tables(), service.streams());
    write(&tables, "teleport/a", 1).await;

    let put = tables.put_item().table_name("tab").set_item(Some(put("teleport/a", 2).item));
    let error =
        put.condition_expression("attribute_not_exists(FullPath)").send().await.unwrap_err().into_service_error();
    assert!(error.is_conditional_check_failed_exception(), "{error:?}");
    let error = tables.describe_table().table_name("none").send().await.unwrap_err().into_service_error();
    assert!(error.is_resource_not_found_exception(), "{error:?}");

    let check = ConditionCheck::builder()
        .table_name("tab")
        .key("HashKey", text("teleport"))
        .key("FullPath", text("teleport/none"))
        .condition_expression("attribute_exists(FullPath)")
        .build()
        .unwrap();
    let parts = [
        TransactWriteItem::builder().put(self::put("teleport/b", 1)).build(),
        TransactWriteItem::builder().condition_check(check).build(),
    ];
    let sent = tables.transact_write_items().set_transact_items(Some(parts.to_vec())).send().await;
    let error = sent.unwrap_err().into_service_error();
    let aws_sdk_dynamodb::operation::transact_write_items::TransactWriteItemsError::TransactionCanceledException(error) =
        error
    else {
        panic!("{error:?}")
    };
    let codes: Vec<&str> = error.cancellation_reasons().iter().filter_map(|reason| reason.code()).collect();
    assert_eq!(codes, ["None", "ConditionalCheckFailed"]);

    let description = streams.describe_stream().stream_arn(&arn).send().await.unwrap().stream_description.unwrap();
    let shard = description.shards()[0].shard_id().unwrap().to_owned();
    let iterator = streams.get_shard_iterator().stream_arn(&arn).shard_id(&shard);
    let horizon = iterator.clone().shard_iterator_type(ShardIteratorType::TrimHorizon).send().await.unwrap();
    let records = streams.get_records().set_shard_iterator(horizon.shard_iterator.clone()).send().await.unwrap();
    let sequence = records.records()[0].dynamodb().unwrap().sequence_number().unwrap().to_owned();
    service.advance(15 * 60);
    let error = streams.get_records().set_shard_iterator(horizon.shard_iterator).send().await.unwrap_err();
    assert!(error.into_service_error().is_expired_iterator_exception());
    service.advance(24 * 3600);
    let after = iterator.shard_iterator_type(ShardIteratorType::AfterSequenceNumber).sequence_number(sequence);
    let error = after.send().await.unwrap_err().into_service_error();
    assert!(error.is_trimmed_data_access_exception(), "{error:?}");
    for _ in 0..10 {
        streams.describe_stream().stream_arn(&arn).send().await.unwrap();
    }
    let error = streams.describe_stream().stream_arn(&arn).send().await.unwrap_err();
    assert_eq!(error.into_service_error().meta().code(), Some("ThrottlingException"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_is_lost_was_done_and_a_token_makes_it_once() {
    let service = simulator(&json!({}));
    table(&service).await;
    let client = service.tables();
    service.simulate("script", &json!({"rules": [{"operation": "TransactWriteItems", "fault": "lost_answer"}]}));
    let part = TransactWriteItem::builder().put(put("teleport/a", 1)).build();
    let send = || client.transact_write_items().client_request_token("once").transact_items(part.clone()).send();
    assert!(matches!(send().await.unwrap_err(), aws_sdk_dynamodb::error::SdkError::DispatchFailure(_)));
    send().await.unwrap();
    let world = service.simulate("world", &json!({ "records": true }));
    assert_eq!(world["streams"][0]["written"], 1);
    assert_eq!(world["tables"][0]["items"], 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn items_that_a_batch_leaves_over_can_be_sent_again() {
    let service = simulator(&json!({"faults": {"unprocessed": 700}}));
    table(&service).await;
    let client = service.tables();
    let request = |n: u64| {
        let put = PutRequest::builder().set_item(Some(put(&format!("teleport/{n}"), n).item)).build().unwrap();
        WriteRequest::builder().put_request(put).build()
    };
    let mut left =
        Some(std::collections::HashMap::from([("tab".to_owned(), (0..25).map(request).collect::<Vec<_>>())]));
    let mut rounds = 0;
    while let Some(items) = left.filter(|items| !items.is_empty()) {
        left = client.batch_write_item().set_request_items(Some(items)).send().await.unwrap().unprocessed_items;
        rounds += 1;
    }
    assert!(rounds > 1, "nothing was left over");
    assert_eq!(client.scan().table_name("tab").send().await.unwrap().count(), 25);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_expired_is_removed_by_the_service_and_every_type_arrives() {
    let service = simulator(&json!({ "rotate_every_seconds": 0 }));
    let arn = table(&service).await;
    let client = service.tables();
    let now = service.simulate("clock", &json!({}))["now_milliseconds"].as_u64().unwrap() / 1000;
    let ttl = aws_sdk_dynamodb::types::TimeToLiveSpecification::builder().attribute_name("Expires").enabled(true);
    client
        .update_time_to_live()
        .table_name("tab")
        .time_to_live_specification(ttl.build().unwrap())
        .send()
        .await
        .unwrap();
    let digits = "12345678901234567890123456789012345678";
    let put = client
        .put_item()
        .table_name("tab")
        .item("HashKey", text("teleport"))
        .item("FullPath", text("teleport/x"))
        .item("Expires", AttributeValue::N((now + 30).to_string()))
        .item("Value", AttributeValue::B(Blob::new(vec![0, 1, 255])))
        .item("digits", AttributeValue::N(digits.to_owned()))
        .item("set", AttributeValue::Bs(vec![Blob::new(vec![]), Blob::new(vec![7])]))
        .item("map", AttributeValue::M([("l".to_owned(), AttributeValue::L(vec![AttributeValue::Null(true)]))].into()));
    put.send().await.unwrap();
    service.advance(1000);
    assert_eq!(client.scan().table_name("tab").send().await.unwrap().count(), 0);
    let streams = service.streams();
    let description = streams.describe_stream().stream_arn(&arn).send().await.unwrap().stream_description.unwrap();
    let shard = description.shards()[0].shard_id().unwrap();
    let iterator = streams.get_shard_iterator().stream_arn(&arn).shard_id(shard);
    let iterator = iterator.shard_iterator_type(ShardIteratorType::TrimHorizon).send().await.unwrap();
    let page = streams.get_records().set_shard_iterator(iterator.shard_iterator).send().await.unwrap();
    let [insert, remove] = page.records() else { panic!("{page:?}") };
    assert_eq!(insert.dynamodb().unwrap().new_image().unwrap()["digits"].as_n().unwrap(), digits);
    assert_eq!(remove.event_name(), Some(&OperationType::Remove));
    let identity = remove.user_identity().unwrap();
    assert_eq!((identity.r#type(), identity.principal_id()), (Some("Service"), Some("dynamodb.amazonaws.com")));
}
