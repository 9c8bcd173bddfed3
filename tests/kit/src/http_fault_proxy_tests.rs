use std::time::Duration;

use super::*;

/// Long enough that running out of it is a failure, not a slow machine.
const LONG: Duration = Duration::from_secs(10);

/// Silence of that length counts as silence.
const SHORT: Duration = Duration::from_millis(30);

/// A database that answers with what it was asked, and a checksum.
struct Mirror {
    address: SocketAddr,
    _tasks: TaskGroup,
}

fn mirror() -> Mirror {
    let port = KeptPort::reserve("127.0.0.1:0".parse().unwrap()).unwrap();
    port.open().unwrap();
    let address = port.address();
    let mut tasks = TaskGroup::new(&CancellationToken::new());
    tasks.spawn("mirror", |cancel| async move {
        let mut connections = TaskGroup::new(&cancel);
        while let Ok(stream) = port.accept().await {
            connections.spawn("mirror connection", |_| async move {
                let service = service_fn(async |request: Request<Incoming>| {
                    let body = request.into_body().collect().await?.to_bytes();
                    let asked: Value = serde_json::from_slice(&body).unwrap_or_default();
                    let answer = json!({ "asked": asked, "UnprocessedItems": { "a": [0] } });
                    let response = Response::builder().header("x-amz-crc32", "1");
                    let body = Full::new(Bytes::from(answer.to_string()));
                    Ok::<_, hyper::Error>(response.body(body).unwrap())
                });
                let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
            });
        }
    });
    Mirror { address, _tasks: tasks }
}

async fn call(proxy: &HttpFaultProxy, operation: &str, body: &Value) -> (u16, bool, Value) {
    let request = Request::post("/")
        .header("x-amz-target", format!("DynamoDB_20120810.{operation}"))
        .body(Full::new(Bytes::from(body.to_string())))
        .unwrap();
    let response =
        tokio::time::timeout(LONG, pass_on(proxy.address(), request)).await.unwrap().unwrap();
    let checked = response.headers().contains_key("x-amz-crc32");
    let body = serde_json::from_slice(response.body()).unwrap_or_default();
    (response.status().as_u16(), checked, body)
}

fn batch() -> Value {
    json!({ "RequestItems": { "a": [1, 2], "b": [3, 4] }, "Other": true })
}

#[tokio::test]
async fn passes_on_what_has_no_fault() {
    let mirror = mirror();
    let proxy = HttpFaultProxy::start(mirror.address).unwrap();
    proxy.inject("Query", DynamoDbFault::InternalError, 1);
    let (status, checked, body) = call(&proxy, BATCH_WRITE, &batch()).await;
    assert_eq!((status, checked, &body["asked"]), (200, true, &batch()));
    assert_eq!((proxy.calls(BATCH_WRITE), proxy.calls("Query")), (1, 0));
}

#[tokio::test]
async fn errors_come_in_order_and_by_operation() {
    let mirror = mirror();
    let proxy = HttpFaultProxy::start(mirror.address).unwrap();
    proxy.inject("Query", DynamoDbFault::ThroughputExceeded, 2);
    proxy.inject("Query", DynamoDbFault::Throttling, 1);
    proxy.inject("Query", DynamoDbFault::InternalError, 1);
    proxy.inject("Query", DynamoDbFault::HoldBack { requests: 9 }, 1);
    let expected = [
        (400, "ProvisionedThroughputExceededException"),
        (400, "ProvisionedThroughputExceededException"),
        (400, "ThrottlingException"),
        (500, "InternalServerError"),
        (200, ""),
        (200, ""),
    ];
    for (status, kind) in expected {
        let (seen, _, body) = call(&proxy, "Query", &json!({})).await;
        let named = body["__type"].as_str().unwrap_or_default();
        assert_eq!((seen, named.rsplit('#').next().unwrap()), (status, kind));
    }
    assert_eq!(call(&proxy, "PutItem", &json!({})).await.0, 200);
    assert_eq!(proxy.calls("Query"), 6);
}

#[tokio::test]
async fn held_back_requests_come_back_unprocessed() {
    let mirror = mirror();
    let proxy = HttpFaultProxy::start(mirror.address).unwrap();
    for requests in [1, 3] {
        proxy.inject(BATCH_WRITE, DynamoDbFault::HoldBack { requests }, 1);
    }
    let (_, checked, body) = call(&proxy, BATCH_WRITE, &batch()).await;
    assert!(!checked, "the checksum is one of another body");
    assert_eq!(body["asked"]["RequestItems"], json!({ "a": [1, 2], "b": [3] }));
    assert_eq!(body["asked"]["Other"], true);
    assert_eq!(body["UnprocessedItems"], json!({ "a": [0], "b": [4] }));
    let (_, _, body) = call(&proxy, BATCH_WRITE, &batch()).await;
    assert_eq!(body["asked"]["RequestItems"], json!({ "a": [1] }));
    assert_eq!(body["UnprocessedItems"], json!({ "a": [0, 2], "b": [3, 4] }));
}

#[tokio::test]
async fn a_batch_held_back_wholly_does_not_reach_the_database() {
    let nobody = KeptPort::reserve("127.0.0.1:0".parse().unwrap()).unwrap();
    let proxy = HttpFaultProxy::start(nobody.address()).unwrap();
    proxy.inject(BATCH_WRITE, DynamoDbFault::HoldBack { requests: 25 }, 1);
    let (status, _, body) = call(&proxy, BATCH_WRITE, &batch()).await;
    assert_eq!((status, &body["UnprocessedItems"]), (200, &batch()["RequestItems"]));
    assert_eq!(call(&proxy, BATCH_WRITE, &batch()).await.0, 502);
}

#[tokio::test]
async fn a_hanging_call_stays_unanswered_and_faults_can_be_taken_back() {
    let mirror = mirror();
    let proxy = HttpFaultProxy::start(mirror.address).unwrap();
    proxy.inject("Query", DynamoDbFault::Hang, 2);
    let hanging = call(&proxy, "Query", &Value::Null);
    assert!(tokio::time::timeout(SHORT, hanging).await.is_err());
    proxy.clear_faults();
    assert_eq!(call(&proxy, "Query", &json!({})).await.0, 200);
}

#[test]
fn what_is_no_batch_is_not_split() {
    for body in ["", "[]", "{}", r#"{"RequestItems":[]}"#, r#"{"RequestItems":{"a":1}}"#] {
        assert_eq!(hold_back(&Bytes::from(body), 1), None, "{body}");
    }
}
