//! The servers do what the other tests rely on.

use std::error::Error;

use aws_sdk_kms::types::DataKeySpec;
use aws_sdk_sqs::types::QueueAttributeName::ApproximateNumberOfMessages;
use scylla::client::session_builder::SessionBuilder;

use crate::aws::{kms_client, sqs_client};
use crate::services::{cassandra, moto, sqs};

#[tokio::test]
async fn cassandra_keeps_a_cell_and_its_time_through_flush_and_compaction()
-> Result<(), Box<dyn Error>> {
    let node = cassandra();
    let session = SessionBuilder::new()
        .known_node(node.node())
        .build()
        .await?;
    let keyspace = node.keyspace_name();
    {
        let _alone = node.schema_lock().await;
        let replication = "{'class': 'SimpleStrategy', 'replication_factor': 1}";
        let ddl = format!("create keyspace {keyspace} with replication = {replication}");
        session.query_unpaged(ddl, ()).await?;
        let ddl = format!("create table {keyspace}.t (id int primary key, v text)");
        session.query_unpaged(ddl, ()).await?;
    }
    let on_disk = async || -> Result<i64, Box<dyn Error>> {
        let select = "select mebibytes from system_views.disk_usage \
                      where keyspace_name = ? and table_name = 't'";
        let rows = session.query_unpaged(select, (&keyspace,)).await?;
        Ok(rows.into_rows_result()?.single_row::<(i64,)>()?.0)
    };
    assert_eq!(on_disk().await?, 0, "nothing is flushed yet");

    let insert = format!("insert into {keyspace}.t (id, v) values (?, ?) using timestamp ?");
    session
        .query_unpaged(insert.as_str(), (1, "later", 7_i64))
        .await?;
    node.flush_and_compact(&keyspace).await;
    session
        .query_unpaged(insert.as_str(), (1, "earlier", 6_i64))
        .await?;
    node.flush_and_compact(&keyspace).await;
    assert!(on_disk().await? > 0, "flushed");

    let select = format!("select v, writetime(v) as w from {keyspace}.t where id = 1");
    let rows = session
        .query_unpaged(select, ())
        .await?
        .into_rows_result()?;
    let (v, w) = rows.single_row::<(String, i64)>()?;
    assert_eq!((v.as_str(), w), ("later", 7));
    Ok(())
}

#[tokio::test]
async fn elasticmq_hands_a_message_out_once_while_it_is_invisible() -> Result<(), Box<dyn Error>> {
    let client = sqs_client(&sqs().endpoint());
    let queue = sqs().queue_url("servers");
    let created = client.create_queue().queue_name("servers").send().await?;
    assert_eq!(created.queue_url(), Some(queue.as_str()));

    let send = client.send_message().queue_url(&queue).message_body("one");
    send.send().await?;
    let receive = client.receive_message().queue_url(&queue);
    let receive = receive.visibility_timeout(600).wait_time_seconds(5);
    let received = receive.clone().send().await?;
    let [message] = received.messages() else {
        panic!("one message, not {:?}", received.messages());
    };
    assert_eq!(message.body(), Some("one"));
    let again = receive.wait_time_seconds(0).send().await?;
    assert!(again.messages().is_empty(), "{again:?}");

    let delete = client.delete_message().queue_url(&queue);
    let delete = delete.set_receipt_handle(message.receipt_handle().map(str::to_owned));
    delete.send().await?;
    let count = client.get_queue_attributes().queue_url(&queue);
    let count = count
        .attribute_names(ApproximateNumberOfMessages)
        .send()
        .await?;
    let left = count
        .attributes()
        .and_then(|a| a.get(&ApproximateNumberOfMessages));
    assert_eq!(left.map(String::as_str), Some("0"));
    Ok(())
}

#[tokio::test]
async fn moto_opens_a_data_key_with_its_context_alone() -> Result<(), Box<dyn Error>> {
    let client = kms_client(&moto().endpoint());
    let created = client.create_key().send().await?;
    let arn = created
        .key_metadata()
        .and_then(|key| key.arn())
        .expect("an ARN");
    let generate = client
        .generate_data_key()
        .key_id(arn)
        .key_spec(DataKeySpec::Aes256);
    let key = generate.encryption_context("org", "a").send().await?;
    let wrapped = key.ciphertext_blob().expect("a wrapped key");
    assert_eq!(key.plaintext().expect("a key").as_ref().len(), 32);

    let decrypt = || {
        client
            .decrypt()
            .key_id(arn)
            .ciphertext_blob(wrapped.clone())
    };
    let opened = decrypt().encryption_context("org", "a").send().await?;
    assert!(
        opened.plaintext() == key.plaintext(),
        "another key came back"
    );
    let refused = decrypt().encryption_context("org", "b").send().await;
    let error = refused
        .expect_err("another context opens nothing")
        .into_service_error();
    assert!(error.is_invalid_ciphertext_exception(), "{error}");
    Ok(())
}
