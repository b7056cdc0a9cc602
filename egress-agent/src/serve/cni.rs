//! What the CNI plugin asks over the unix socket.

use axum::extract::State;
use axum::extract::rejection::JsonRejection;
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use axum::{Json, Router};

use super::socket::refused;
use super::{NoAnswer, Request, View};
use crate::cni::message::{Attachment, Outcome};

/// POST: a sandbox was made.
pub(super) const ENFORCE: &str = "/v1/cni/enforce";
/// POST: is a sandbox as it was made?
pub(super) const INSPECT: &str = "/v1/cni/inspect";
/// GET: would a sandbox be served?
pub(super) const SERVES: &str = "/v1/cni/serves";

/// The routes.
pub(super) fn router() -> Router<View> {
    Router::new()
        .route(ENFORCE, post(enforce))
        .route(INSPECT, post(inspect))
        .route(SERVES, get(serves))
}

async fn enforce(
    State(view): State<View>,
    attachment: Result<Json<Attachment>, JsonRejection>,
) -> Response {
    match attachment {
        Ok(Json(attachment)) => answer(
            view.ask(|reply| Request::Enforce { attachment, reply })
                .await,
        ),
        Err(rejection) => refused(rejection.status(), rejection.body_text()),
    }
}

async fn inspect(
    State(view): State<View>,
    attachment: Result<Json<Attachment>, JsonRejection>,
) -> Response {
    match attachment {
        Ok(Json(attachment)) => answer(
            view.ask(|reply| Request::Inspect { attachment, reply })
                .await,
        ),
        Err(rejection) => refused(rejection.status(), rejection.body_text()),
    }
}

async fn serves(State(view): State<View>) -> Response {
    answer(view.ask(Request::Serves).await)
}

fn answer(outcome: Result<Outcome, NoAnswer>) -> Response {
    match outcome {
        Ok(outcome) => Json(outcome).into_response(),
        Err(error) => refused(StatusCode::SERVICE_UNAVAILABLE, error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use super::super::client::{Client, Error};
    use super::super::socket::Socket;
    use super::super::testing::Agent;
    use super::*;

    fn attachment(name: &str) -> Attachment {
        Attachment {
            namespace: "a".to_owned(),
            name: name.to_owned(),
            uid: "u".to_owned(),
            container_id: "c1".to_owned(),
            interface: "eth0".to_owned(),
            host_interfaces: Vec::new(),
            addresses: ["10.0.0.9".parse().unwrap()].into(),
        }
    }

    #[tokio::test]
    async fn the_plugins_questions_reach_the_agent_task_and_its_answers_the_plugin() {
        let agent = Agent::start();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("agent.sock");
        let server = tokio::spawn(Socket::bind(&path).unwrap().serve(agent.view.clone()));
        let client = Client::new(&path);

        assert_eq!(client.serves().await.unwrap(), Outcome::Done);
        assert_eq!(
            client.enforce(&attachment("web")).await.unwrap(),
            Outcome::Done
        );
        let unknown = client.enforce(&attachment("none")).await.unwrap();
        assert_eq!(unknown, Outcome::try_again("there is no pod a/none"));
        let not_made = client.inspect(&attachment("web")).await.unwrap();
        assert_eq!(not_made, Outcome::impossible("not hooked"));

        agent.end().await;
        assert!(matches!(client.serves().await, Err(Error::Refused(_))));
        server.abort();
    }
}
