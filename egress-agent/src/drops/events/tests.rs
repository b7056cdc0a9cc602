#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test may panic"
)]

use axum::Router;
use axum::extract::Path;
use axum::http::{Method, StatusCode};
use axum::routing::any;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::mpsc;

use super::super::DropRecord;
use super::super::record::tests::record;
use super::*;

/// A request that an API server was sent: method, name of the Event, body.
type Sent = (Method, String, Value);

/// Answers every request with its own body and `code`, and passes it on.
async fn server(code: u16) -> (kube::Client, mpsc::UnboundedReceiver<Sent>) {
    #[expect(clippy::disallowed_methods, reason = "a test reads what it caused")]
    let (sent, seen) = mpsc::unbounded_channel();
    let answer = move |method: Method, path: Path<Vec<String>>, body: axum::Json<Value>| {
        let sent = sent.clone();
        async move {
            let name = path.0.get(1).cloned().unwrap_or_default();
            let mut answer = body.0.clone();
            if code >= 400 {
                answer = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure",
                    "code": code, "message": "no", "reason": "No"});
            } else if !name.is_empty() {
                answer["metadata"] = json!({"name": name});
            }
            sent.send((method, name, body.0)).unwrap();
            (StatusCode::from_u16(code).unwrap(), axum::Json(answer))
        }
    };
    let events = "/apis/events.k8s.io/v1/namespaces/{namespace}/events";
    let app = Router::new()
        .route(events, any(answer.clone()))
        .route(&format!("{events}/{{name}}"), any(answer));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move { axum::serve(listener, app).await });
    let uri = format!("http://127.0.0.1:{port}").parse().unwrap();
    let mut config = kube::Config::new(uri);
    config.default_retry = false;
    (kube::Client::try_from(config).unwrap(), seen)
}

fn write_of(record: &DropRecord) -> (Book, Write) {
    let mut book = Book::default();
    book.take(record, Instant::now());
    let write = book.due(Instant::now()).unwrap();
    (book, write)
}

#[tokio::test]
async fn a_drop_becomes_an_event_of_its_pods_namespace() {
    let (client, mut seen) = server(201).await;
    let log = Arc::new(DropLog::default());
    let task = tokio::spawn(publish(client, "node-1".to_owned(), Arc::clone(&log)));
    // Not before the task follows.
    tokio::time::sleep(Duration::from_millis(50)).await;
    let start = Instant::now();
    log.push([record(), record()], start);
    log.advance(start + Duration::from_secs(1));
    let (method, name, event) = timeout(Duration::from_secs(10), seen.recv())
        .await
        .unwrap()
        .unwrap();
    assert_eq!((method, name.as_str()), (Method::POST, ""));
    assert_eq!(event["metadata"]["namespace"], "shop");
    assert_eq!(event["regarding"]["name"], "web-0");
    assert_eq!(event["series"]["count"], 2);
    assert_eq!(event["type"], "Warning");
    task.abort();
}

#[tokio::test]
async fn more_of_the_same_changes_the_series_alone() {
    let (client, mut seen) = server(200).await;
    let (mut book, write) = write_of(&record());
    let outcome = carry_out(&client, "node-1", &write).await.unwrap();
    let (_, _, created) = seen.recv().await.unwrap();
    let name = created["metadata"]["name"].as_str().unwrap().to_owned();
    assert_eq!(outcome, Outcome::Written(name.clone()));
    let start = Instant::now();
    book.done(write, outcome, start);
    book.take(&record(), start);
    let again = book.due(start + Duration::from_mins(1)).unwrap();
    carry_out(&client, "node-1", &again).await.unwrap();
    let (method, patched, body) = seen.recv().await.unwrap();
    assert_eq!((method, patched), (Method::PATCH, name));
    assert_eq!(
        body,
        json!({"series": {"count": 2, "lastObservedTime": "2026-11-21T06:00:00.000000Z"}})
    );
}

#[tokio::test]
async fn a_server_that_refuses_is_an_error_and_an_event_that_went_is_none() {
    let (client, _seen) = server(403).await;
    let (_, mut write) = write_of(&record());
    assert!(carry_out(&client, "n", &write).await.is_err());
    let (client, _seen) = server(404).await;
    assert_eq!(carry_out(&client, "n", &write).await, Ok(Outcome::Unwanted));
    write.name = Some("gone".to_owned());
    assert_eq!(carry_out(&client, "n", &write).await, Ok(Outcome::Gone));
}
