//! `check --batch`: a question a line in, an answer a line out, in order.

use std::io::{self, BufRead as _, BufReader, BufWriter, Read, Write};

use egress_core::check::Checker;
use serde::{Deserialize, Serialize};

use crate::answer::Answer;
use crate::evaluate::{Target, evaluate};

/// A line in. Other fields are left alone: whoever asks may mark its questions.
#[derive(Debug, Deserialize)]
struct Question {
    from: String,
    to: String,
}

/// A line out.
#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Reply {
    Answer(Box<Answer>),
    Error { error: String },
}

/// Answers every line; false when one could not be answered.
///
/// Answers are held back only while more questions are here already: a program that waits for
/// each answer before it asks on gets it.
pub(super) fn run(
    mut questions: BufReader<impl Read>,
    mut answers: BufWriter<impl Write>,
    checker: &mut Checker<'_>,
) -> io::Result<bool> {
    let mut all_answered = true;
    let mut line = Vec::new();
    loop {
        // Reading on may have to wait for whoever asks.
        if !questions.buffer().contains(&b'\n') {
            answers.flush()?;
        }
        line.clear();
        if questions.read_until(b'\n', &mut line)? == 0 {
            break;
        }
        let reply = reply(&line, checker);
        all_answered &= matches!(reply, Reply::Answer(_));
        serde_json::to_writer(&mut answers, &reply)?;
        answers.write_all(b"\n")?;
    }
    answers.flush()?;
    Ok(all_answered)
}

fn reply(line: &[u8], checker: &mut Checker<'_>) -> Reply {
    match answer(line, checker) {
        Ok(answer) => Reply::Answer(Box::new(answer)),
        Err(error) => Reply::Error {
            error: format!("{error:#}"),
        },
    }
}

fn answer(line: &[u8], checker: &mut Checker<'_>) -> anyhow::Result<Answer> {
    let Question { from, to } = serde_json::from_slice(line)?;
    Ok(evaluate(
        checker,
        &from.parse()?,
        &Target::of(&to.parse()?)?,
    )?)
}

#[cfg(test)]
mod tests {
    #![expect(
        clippy::unwrap_used,
        clippy::indexing_slicing,
        reason = "a test may panic"
    )]

    use std::cell::RefCell;
    use std::rc::Rc;

    use egress_core::compile::Options;
    use egress_core::object::{self, read};
    use egress_core::store::{Changed, Event, Store};
    use serde_json::{Value, json};

    use super::*;

    fn store() -> Store {
        let mut store = Store::default();
        for object in [
            json!({
                "apiVersion": "v1", "kind": "Pod",
                "metadata": {"namespace": "a", "name": "web"},
                "spec": {"nodeName": "n"},
                "status": {"phase": "Running", "podIPs": [{"ip": "10.0.0.9"}]},
            }),
            json!({
                "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
                "metadata": {"namespace": "a", "name": "out"},
                "spec": {
                    "policyTypes": ["Egress"],
                    "egress": [{"to": [{"ipBlock": {"cidr": "192.0.2.0/24"}}]}],
                },
            }),
        ] {
            let object::Read::Object(object) = read(&object) else {
                unreachable!()
            };
            assert_eq!(store.apply(Event::Applied(object)), Changed::Yes);
        }
        store
    }

    fn answers(input: &[u8]) -> (bool, Vec<Value>) {
        let store = store();
        let mut checker = Checker::new(&store, Options::default());
        let mut out = Vec::new();
        let all = run(
            BufReader::new(input),
            BufWriter::new(&mut out),
            &mut checker,
        )
        .unwrap();
        let lines = String::from_utf8(out).unwrap();
        (
            all,
            lines
                .lines()
                .map(|line| serde_json::from_str(line).unwrap())
                .collect(),
        )
    }

    #[test]
    fn answers_come_in_the_order_of_the_questions() {
        let (all, lines) = answers(
            b"{\"from\":\"a/web\",\"to\":\"192.0.2.1:80\"}\n{\"from\":\"a/web\",\"to\":\"198.51.100.1/icmp\",\"id\":7}",
        );
        assert!(all);
        assert_eq!(
            lines,
            [
                json!({"verdict": "allow", "reason": "allowed", "isolatedBy": ["a/out"], "allowedBy": ["a/out"]}),
                json!({"verdict": "deny", "reason": "no-rule", "isolatedBy": ["a/out"], "allowedBy": []}),
            ]
        );
    }

    #[test]
    fn a_bad_line_has_an_error_in_its_place_and_the_rest_is_answered() {
        let (all, lines) = answers(
            b"nonsense\n\n{\"from\":\"a/none\",\"to\":\"192.0.2.1:80\"}\n{\"from\":\"a/web\",\"to\":\"192.0.2.1\"}\n\xff\n{\"from\":\"a/web\",\"to\":\"192.0.2.1:80\"}\n",
        );
        assert!(!all);
        let (last, bad) = lines.split_last().unwrap();
        assert_eq!(bad.len(), 5);
        assert!(bad.iter().all(|line| line["error"].is_string()), "{bad:?}");
        assert_eq!(last["verdict"], "allow");
    }

    /// Gives one line a read, and looks at what was answered before it gives the next.
    struct Waiting {
        asked: usize,
        answered: Rc<RefCell<Vec<u8>>>,
    }

    impl Read for Waiting {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let answered = self.answered.borrow().split(|byte| *byte == b'\n').count() - 1;
            assert_eq!(answered, self.asked, "an answer was held back");
            if self.asked == 3 {
                return Ok(0);
            }
            self.asked += 1;
            let line = b"{\"from\":\"a/web\",\"to\":\"192.0.2.1:80\"}\n";
            buffer[..line.len()].copy_from_slice(line);
            Ok(line.len())
        }
    }

    struct Shared(Rc<RefCell<Vec<u8>>>);

    impl Write for Shared {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.borrow_mut().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn whoever_waits_for_each_answer_gets_it() {
        let store = store();
        let mut checker = Checker::new(&store, Options::default());
        let answered = Rc::new(RefCell::new(Vec::new()));
        let questions = Waiting {
            asked: 0,
            answered: Rc::clone(&answered),
        };
        assert!(
            run(
                BufReader::new(questions),
                BufWriter::new(Shared(answered)),
                &mut checker
            )
            .unwrap()
        );
    }
}
