//! The node's HTTP address: `/metrics`, `/healthz`, `/readyz`.
//!
//! Nothing here tells a pod's destination, and nothing changes anything: whoever reaches
//! the port may read it.

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;

use super::{Request, View};
use crate::metrics;

/// Content type of Prometheus' text format.
const TEXT_FORMAT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Content type of the OpenMetrics text format.
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The routes.
pub fn router(view: View) -> Router {
    Router::new()
        .route("/metrics", get(metrics))
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .with_state(view)
}

async fn metrics(State(view): State<View>, headers: HeaderMap) -> Response {
    let open_metrics = wants_open_metrics(&headers);
    // System calls, one or two an endpoint: not on a thread that other requests wait for.
    let text = tokio::task::spawn_blocking(move || {
        let attribution = view.attribution.borrow().clone();
        let status = view.status.borrow().clone();
        let scrape = view
            .counters
            .scrape(&attribution)
            .inspect_err(|error| {
                tracing::warn!(%error, "the packet counters cannot be read");
                view.observations.bpf_failed(&error.map, error.op);
            })
            .ok();
        metrics::render(&status, scrape.as_ref(), &view.observations)
    })
    .await;
    match text {
        Ok(Ok(text)) if open_metrics => (
            [(header::CONTENT_TYPE, OPEN_METRICS)],
            metrics::open_metrics(&text),
        )
            .into_response(),
        Ok(Ok(text)) => ([(header::CONTENT_TYPE, TEXT_FORMAT)], text).into_response(),
        Ok(Err(error)) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
}

/// Who names the format at all can read it: Prometheus puts it first, a browser leaves it out.
fn wants_open_metrics(headers: &HeaderMap) -> bool {
    headers
        .get_all(header::ACCEPT)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|format| format.trim().starts_with("application/openmetrics-text"))
}

async fn healthz(State(view): State<View>) -> Response {
    match view.ask(Request::Ping).await {
        Ok(()) => "ok\n".into_response(),
        Err(error) => (StatusCode::SERVICE_UNAVAILABLE, format!("{error}\n")).into_response(),
    }
}

async fn readyz(State(view): State<View>) -> Response {
    let status = view.status.borrow().clone();
    if status.ready {
        return "ready\n".into_response();
    }
    let mut reasons = String::from("not ready\n");
    for reason in &status.waiting_for {
        reasons.push_str("waiting for ");
        reasons.push_str(reason);
        reasons.push('\n');
    }
    (StatusCode::SERVICE_UNAVAILABLE, reasons).into_response()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::testing::{Agent, get};
    use super::*;

    #[tokio::test]
    async fn healthz_fails_when_the_agent_task_is_gone() {
        let agent = Agent::start();
        assert_eq!(
            get(router(agent.view.clone()), "/healthz").await,
            (200, "ok\n".to_owned())
        );
        let view = agent.view.clone();
        agent.end().await;
        assert_eq!(
            get(router(view), "/healthz").await,
            (503, "the agent task has ended\n".to_owned())
        );
    }

    #[tokio::test]
    async fn readyz_says_what_is_missing_until_all_is_programmed() {
        let agent = Agent::start();
        let router = router(agent.view.clone());
        assert_eq!(
            get(router.clone(), "/readyz").await,
            (
                503,
                "not ready\nwaiting for the first look at the sources\n".to_owned()
            )
        );
        agent.status.send_modify(|status| {
            let status = Arc::make_mut(status);
            status.ready = true;
            status.waiting_for.clear();
        });
        assert_eq!(get(router, "/readyz").await, (200, "ready\n".to_owned()));
    }

    #[tokio::test]
    async fn metrics_read_the_kernel_at_that_moment() {
        let agent = Agent::start();
        let router = router(agent.view.clone());
        let line = "egress_dropped_packets_total{family=\"4\",protocol=\"tcp\",reason=\"no-rule\"}";
        agent.kernel.drop_packets(3, 5);
        let (status, text) = get(router.clone(), "/metrics").await;
        assert_eq!(status, 200);
        assert!(text.contains(&format!("{line} 5\n")), "{text}");
        agent.kernel.drop_packets(3, 2);
        let (_, text) = get(router, "/metrics").await;
        assert!(text.contains(&format!("{line} 7\n")), "{text}");
    }

    #[tokio::test]
    async fn a_kernel_that_cannot_be_read_leaves_a_gap_and_is_counted() {
        let agent = Agent::start();
        agent.kernel.drop_packets(3, 5);
        agent.kernel.fail();
        let (status, text) = get(router(agent.view.clone()), "/metrics").await;
        assert_eq!(status, 200);
        assert!(!text.contains("egress_dropped_packets_total"), "{text}");
        assert!(
            text.contains("egress_bpf_errors_total{map=\"DROPPED\",op=\"lookup\"} 1\n"),
            "{text}"
        );
    }

    #[test]
    fn open_metrics_is_for_those_who_ask() {
        let accepts = |value: &'static str| {
            let value = axum::http::HeaderValue::from_static(value);
            wants_open_metrics(&HeaderMap::from_iter([(header::ACCEPT, value)]))
        };
        // As Prometheus 2.42 asks.
        assert!(accepts(
            "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
        ));
        assert!(!accepts("text/html,*/*;q=0.8"));
        assert!(!wants_open_metrics(&HeaderMap::new()));
    }

    #[tokio::test]
    async fn other_paths_are_not_found() {
        let agent = Agent::start();
        assert_eq!(get(router(agent.view.clone()), "/v1/status").await.0, 404);
    }
}
