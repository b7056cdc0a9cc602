//! What to ask the API server for one kind, and what its answers mean: pure, no I/O.
//!
//! ```text
//!        ┌→ Stream ───────────────┐ complete
//!        │    └ refused, broken off ├─────────→ Watch ┐ ended: again, from the last version heard
//!        │      └→ Page → Page ─────┘             │ ↑─┘
//!        └────────────────────────────────────────┘ 410, or an answer that makes no sense
//! ```
//!
//! This is not kube-runtime's `watcher`, which has the same states, for three reasons. It
//! keeps bookmarks to itself, and without them a quiet cluster looks like one that is gone. It
//! passes over an event that it cannot decode, where something may have to close; here the
//! list comes anew. And it asks for streams from version 0, which a server may answer with
//! what was long ago: policies that were created since would be deleted.

use kube::api::WatchEvent;
use kube::core::watch::Bookmark;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::failure::{Failure, Then};
use super::item::Item;
use super::resource::Resource;

/// Marks the bookmark that ends a streamed list.
const LIST_END: &str = "k8s.io/initial-events-end";

/// What to ask for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Ask {
    /// Everything, as the first events of a watch.
    Stream,
    /// A page of everything: the first, or the one that a token of the page before names.
    Page(Option<String>),
    /// What happened after a version.
    Watch(String),
}

/// What an answer means. Between `Listing` and `Complete` objects are of the list; a list that
/// does not become complete says nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Said {
    /// A list begins.
    Listing,
    /// An object is there.
    Applied(Item),
    /// An object is gone.
    Deleted(Item),
    /// Those are all.
    Complete,
    /// Nothing else happened.
    Alive,
    /// Nothing is heard now, and why.
    Failed(String),
}

/// A page of a list.
#[derive(Debug, Deserialize)]
pub(super) struct Page {
    #[serde(default)]
    metadata: PageMetadata,
    #[serde(default)]
    items: Option<Vec<Box<RawValue>>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct PageMetadata {
    #[serde(default)]
    resource_version: String,
    #[serde(default, rename = "continue")]
    token: String,
}

/// The conversation about one kind.
#[derive(Debug)]
pub(super) struct Session {
    resource: Resource,
    ask: Ask,
    /// The next list is a stream. Where that did not work, one list is paged.
    streams: bool,
}

impl Session {
    /// Nothing asked yet.
    pub(super) fn new(resource: Resource) -> Self {
        Self {
            resource,
            ask: Ask::Stream,
            streams: true,
        }
    }

    /// The kind it is about.
    pub(super) fn resource(&self) -> Resource {
        self.resource
    }

    /// What to ask for next.
    pub(super) fn ask(&self) -> &Ask {
        &self.ask
    }

    /// The server began to answer a [`Ask::Stream`] or [`Ask::Watch`].
    pub(super) fn begun(&self) -> Said {
        match self.ask {
            Ask::Stream | Ask::Page(_) => Said::Listing,
            Ask::Watch(_) => Said::Alive,
        }
    }

    /// Takes a page in.
    pub(super) fn page(&mut self, page: Page) -> Result<Vec<Said>, Failure> {
        let Page {
            metadata:
                PageMetadata {
                    resource_version,
                    token,
                },
            items,
        } = page;
        let mut said = Vec::new();
        if self.ask == Ask::Page(None) {
            said.push(Said::Listing);
        }
        said.extend(
            items
                .unwrap_or_default()
                .iter()
                .map(|text| Said::Applied(Item::read(self.resource, text))),
        );
        if !token.is_empty() {
            self.ask = Ask::Page(Some(token));
        } else if resource_version.is_empty() {
            return Err(no_version("a list"));
        } else {
            said.push(Said::Complete);
            self.ask = Ask::Watch(resource_version);
            // It may have been a server that is being replaced, or a connection that broke.
            self.streams = true;
        }
        Ok(said)
    }

    /// Takes an event of a stream or watch in.
    pub(super) fn event(&mut self, event: WatchEvent<Box<RawValue>>) -> Result<Said, Failure> {
        match event {
            WatchEvent::Added(text) | WatchEvent::Modified(text) => {
                Ok(Said::Applied(self.item(&text)?))
            }
            WatchEvent::Deleted(text) => Ok(Said::Deleted(self.item(&text)?)),
            WatchEvent::Bookmark(bookmark) => self.bookmark(bookmark),
            WatchEvent::Error(status) => {
                // The list has whatever the server could not tell here.
                let failure = Failure::of_status(self.resource, "watch", &status);
                Err(Failure {
                    then: Then::List,
                    ..failure
                })
            }
        }
    }

    /// A request failed, or what it led to.
    pub(super) fn failed(&mut self, failure: &Failure) {
        match (failure.then, &self.ask) {
            (Then::Again, _) => return,
            (Then::Page, Ask::Stream) => self.streams = false,
            // Of any other request these codes mean that its version or token is no good.
            (Then::Page | Then::List, _) => {}
        }
        self.ask = if self.streams {
            Ask::Stream
        } else {
            Ask::Page(None)
        };
    }

    fn item(&mut self, text: &RawValue) -> Result<Item, Failure> {
        let item = Item::read(self.resource, text);
        if let Ask::Watch(version) = &mut self.ask {
            if item.version.is_empty() {
                return Err(no_version("an object"));
            }
            version.clone_from(&item.version);
        }
        Ok(item)
    }

    fn bookmark(&mut self, bookmark: Bookmark) -> Result<Said, Failure> {
        let metadata = bookmark.metadata;
        if metadata.resource_version.is_empty() {
            return Err(no_version("a bookmark"));
        }
        match &mut self.ask {
            Ask::Watch(version) => {
                *version = metadata.resource_version;
                Ok(Said::Alive)
            }
            Ask::Stream | Ask::Page(_) if metadata.annotations.contains_key(LIST_END) => {
                self.ask = Ask::Watch(metadata.resource_version);
                Ok(Said::Complete)
            }
            Ask::Stream | Ask::Page(_) => Ok(Said::Alive),
        }
    }
}

fn no_version(what: &str) -> Failure {
    Failure::new(
        Then::List,
        format!("the API server sent {what} without a resourceVersion"),
    )
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests {
    use egress_core::object::{Kind, Read};
    use serde_json::{Value, json};

    use super::*;

    fn session() -> Session {
        Session::new(Resource::of(Kind::Namespace))
    }

    fn namespace(name: &str, version: &str) -> Value {
        json!({"metadata": {"name": name, "resourceVersion": version}})
    }

    /// As the API server writes it: the type first, so that the object need not be buffered.
    fn event(kind: &str, object: &Value) -> WatchEvent<Box<RawValue>> {
        serde_json::from_str(&format!(r#"{{"type":"{kind}","object":{object}}}"#)).unwrap()
    }

    fn bookmark(version: &str, end: bool) -> WatchEvent<Box<RawValue>> {
        let annotations = if end {
            json!({LIST_END: "true"})
        } else {
            json!({})
        };
        event(
            "BOOKMARK",
            &json!({"kind": "Namespace", "apiVersion": "v1", "metadata": {"resourceVersion": version, "annotations": annotations}}),
        )
    }

    fn page(items: &Value, version: &str, token: &str) -> Page {
        let list =
            json!({"metadata": {"resourceVersion": version, "continue": token}, "items": items});
        serde_json::from_str(&list.to_string()).unwrap()
    }

    /// What was said, without the objects' contents.
    fn told(said: &Said) -> String {
        let name = |item: &Item| match &item.read {
            Read::Object(object) => object.key().name.to_string(),
            Read::Ignored { .. } | Read::Unusable(_) => format!("{:?}", item.read),
        };
        match said {
            Said::Applied(item) => format!("+{}", name(item)),
            Said::Deleted(item) => format!("-{}", name(item)),
            Said::Listing | Said::Complete | Said::Alive | Said::Failed(_) => format!("{said:?}"),
        }
    }

    #[test]
    fn a_streamed_list_is_complete_at_its_bookmark_and_goes_on_as_a_watch() {
        let mut session = session();
        assert_eq!(*session.ask(), Ask::Stream);
        assert_eq!(session.begun(), Said::Listing);
        let added = event("ADDED", &namespace("a", "5"));
        assert_eq!(told(&session.event(added).unwrap()), "+a");
        assert_eq!(session.event(bookmark("6", false)).unwrap(), Said::Alive);
        assert_eq!(*session.ask(), Ask::Stream, "no end yet");
        assert_eq!(session.event(bookmark("7", true)).unwrap(), Said::Complete);
        assert_eq!(*session.ask(), Ask::Watch("7".to_owned()));
        let deleted = event("DELETED", &namespace("a", "9"));
        assert_eq!(told(&session.event(deleted).unwrap()), "-a");
        assert_eq!(*session.ask(), Ask::Watch("9".to_owned()));
        assert_eq!(session.event(bookmark("12", false)).unwrap(), Said::Alive);
        assert_eq!(*session.ask(), Ask::Watch("12".to_owned()));
        assert_eq!(session.begun(), Said::Alive, "no new list");
    }

    #[test]
    fn a_list_that_cannot_be_streamed_comes_in_pages() {
        let mut session = session();
        session.failed(&Failure::new(Then::Page, "sendInitialEvents is forbidden"));
        assert_eq!(*session.ask(), Ask::Page(None));
        let first = session
            .page(page(&json!([namespace("a", "1")]), "5", "more"))
            .unwrap();
        assert_eq!(
            first.iter().map(told).collect::<Vec<_>>(),
            ["Listing", "+a"]
        );
        assert_eq!(*session.ask(), Ask::Page(Some("more".to_owned())));
        let last = session.page(page(&Value::Null, "5", "")).unwrap();
        assert_eq!(last.iter().map(told).collect::<Vec<_>>(), ["Complete"]);
        assert_eq!(*session.ask(), Ask::Watch("5".to_owned()));
        session.failed(&Failure::new(Then::List, "410"));
        assert_eq!(*session.ask(), Ask::Stream, "the next may be");
    }

    #[test]
    fn a_watch_that_fell_behind_lists_anew_and_others_go_on_where_they_were() {
        let mut session = session();
        session.event(bookmark("7", true)).unwrap();
        session.failed(&Failure::new(Then::Again, "connection refused"));
        assert_eq!(*session.ask(), Ask::Watch("7".to_owned()));
        let gone = event(
            "ERROR",
            &json!({"kind": "Status", "code": 410, "message": "too old", "reason": "Expired"}),
        );
        let failure = session.event(gone).unwrap_err();
        assert_eq!(failure.then, Then::List);
        session.failed(&failure);
        assert_eq!(*session.ask(), Ask::Stream);
    }

    #[test]
    fn a_token_that_ran_out_begins_the_list_anew() {
        let mut session = session();
        session.failed(&Failure::new(Then::Page, "no streams"));
        session.page(page(&json!([]), "5", "more")).unwrap();
        session.failed(&Failure::new(Then::Again, "timeout"));
        assert_eq!(*session.ask(), Ask::Page(Some("more".to_owned())));
        for then in [Then::List, Then::Page] {
            session.failed(&Failure::new(then, "the token is too old"));
            assert_eq!(*session.ask(), Ask::Page(None));
        }
    }

    #[test]
    fn an_error_in_the_middle_of_a_watch_lists_anew_whatever_its_code() {
        for code in [403, 500, 504] {
            let mut session = session();
            session.event(bookmark("7", true)).unwrap();
            let error = event(
                "ERROR",
                &json!({"kind": "Status", "code": code, "message": "m"}),
            );
            let failure = session.event(error).unwrap_err();
            session.failed(&failure);
            assert_eq!(*session.ask(), Ask::Stream);
        }
    }

    #[test]
    fn what_has_no_version_cannot_be_gone_on_from() {
        let mut listing = session();
        listing.failed(&Failure::new(Then::Page, "no streams"));
        assert_eq!(
            listing.page(page(&json!([]), "", "")).unwrap_err().then,
            Then::List
        );
        let mut watching = session();
        watching.event(bookmark("7", true)).unwrap();
        let odd = event("ADDED", &json!({"metadata": {"name": "a"}}));
        assert_eq!(watching.event(odd).unwrap_err().then, Then::List);
    }
}
