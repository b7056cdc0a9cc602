//! Why the API server did not say what it was asked for, and what follows.

use std::time::Duration;

use kube::core::Status;

use super::resource::Resource;

/// A request that failed, or a watch that ended with an error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Failure {
    pub(super) then: Then,
    /// For people: what is wrong, and what to do about it.
    pub(super) message: String,
    /// The server wants to be left alone for this long.
    pub(super) retry_after: Option<Duration>,
}

/// How to go on after a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Then {
    /// With the same request.
    Again,
    /// With a list: what was missed cannot be asked for any more, or something was said that
    /// could not be understood, and the list has it.
    List,
    /// With pages, where a streamed list was asked for; else as `List`.
    Page,
}

impl Failure {
    /// Something else than the server's own word.
    pub(super) fn new(then: Then, message: impl Into<String>) -> Self {
        Self {
            then,
            message: message.into(),
            retry_after: None,
        }
    }

    /// A request that was refused or never answered.
    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "most of the client's errors are of things that are not done here"
    )]
    pub(super) fn of_request(resource: Resource, verb: &str, error: &kube::Error) -> Self {
        match error {
            kube::Error::Api(status) => Self::of_status(resource, verb, status),
            // Of these two the outer text only repeats the inner one.
            kube::Error::Service(inner) => Self::new(Then::Again, chain(inner.as_ref())),
            kube::Error::HyperError(inner) => Self::new(Then::Again, chain(inner)),
            kube::Error::SerdeError(_) | kube::Error::FromUtf8(_) => Self::new(
                Then::List,
                format!("the API server's answer makes no sense: {}", chain(error)),
            ),
            other => Self::new(Then::Again, chain(other)),
        }
    }

    /// What the server itself says went wrong.
    pub(super) fn of_status(resource: Resource, verb: &str, status: &Status) -> Self {
        let Resource { group, plural, .. } = resource;
        let says = format!("the API server says {}: {}", status.code, status.message);
        let (then, message) = match status.code {
            401 => (
                Then::Again,
                format!("the API server does not accept the agent's credentials; {says}"),
            ),
            403 => (
                Then::Again,
                format!(
                    "the agent may not {verb} {plural}: give its ClusterRole a rule with apiGroups [\"{group}\"], resources [\"{plural}\"], verbs [\"list\", \"watch\"]; {says}"
                ),
            ),
            404 => (
                Then::Again,
                format!(
                    "the API server does not serve {plural} of {}; {says}",
                    resource.api_version()
                ),
            ),
            410 => (Then::List, format!("the watch fell behind; {says}")),
            // What a server answers to a parameter that it does not know or does not allow.
            400 | 405 | 422 => (Then::Page, says),
            _ => (Then::Again, says),
        };
        let wait = status
            .details
            .as_ref()
            .map(|details| u64::from(details.retry_after_seconds))
            .filter(|seconds| *seconds > 0);
        Self {
            then,
            message,
            retry_after: wait.map(Duration::from_secs),
        }
    }
}

/// An error with its causes; a cause that the text before it tells already is left out.
pub(super) fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests {
    use egress_core::object::Kind;

    use super::*;

    fn of(kind: Kind, code: u16, message: &str) -> Failure {
        let status = Status::failure(message, "Reason").with_code(code);
        Failure::of_status(Resource::of(kind), "watch", &status)
    }

    #[test]
    fn a_missing_right_is_named_with_what_to_grant() {
        let says = "networkpolicies.networking.k8s.io is forbidden: User \"system:serviceaccount:a:b\" cannot watch";
        let failure = of(Kind::NetworkPolicy, 403, says);
        assert_eq!(failure.then, Then::Again);
        assert_eq!(
            failure.message,
            format!(
                "the agent may not watch networkpolicies: give its ClusterRole a rule with apiGroups [\"networking.k8s.io\"], resources [\"networkpolicies\"], verbs [\"list\", \"watch\"]; the API server says 403: {says}"
            )
        );
        assert!(
            of(Kind::Pod, 403, "no")
                .message
                .contains("apiGroups [\"\"], resources [\"pods\"]")
        );
    }

    #[test]
    fn what_follows_is_told_by_the_code() {
        for (code, then) in [
            (401, Then::Again),
            (404, Then::Again),
            (410, Then::List),
            (400, Then::Page),
            (422, Then::Page),
            (429, Then::Again),
            (500, Then::Again),
            (503, Then::Again),
        ] {
            assert_eq!(of(Kind::Node, code, "m").then, then, "{code}");
        }
    }

    #[test]
    fn a_server_that_wants_to_be_left_alone_is() {
        let mut status = Status::failure("later", "TooManyRequests").with_code(429);
        status.details = serde_json::from_str(r#"{"retryAfterSeconds": 7}"#).unwrap();
        let failure = Failure::of_status(Resource::of(Kind::Pod), "list", &status);
        assert_eq!(failure.retry_after, Some(Duration::from_secs(7)));
    }
}
