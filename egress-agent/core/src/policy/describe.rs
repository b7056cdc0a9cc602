//! Peers and ports in words.

use std::fmt;

use super::{Block, NamespaceScope, Peer, Port};

/// `except` entries that are written out.
const EXCEPTS: usize = 3;

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (namespaces, pods) = match self {
            Self::Block(block) => return write!(f, "ipBlock {block}"),
            Self::Pods { namespaces, pods } => (namespaces, pods),
        };
        if pods.is_everything() {
            f.write_str("every pod of ")?;
        } else {
            write!(f, "pods {pods} of ")?;
        }
        match namespaces {
            NamespaceScope::Named(name) => write!(f, "namespace {name}"),
            NamespaceScope::Matching(selector) if selector.is_everything() => {
                f.write_str("every namespace")
            }
            NamespaceScope::Matching(selector) => write!(f, "namespaces {selector}"),
        }
    }
}

impl fmt::Display for Block {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.net)?;
        let mut separator = " except ";
        for net in self.except.iter().take(EXCEPTS) {
            write!(f, "{separator}{net}")?;
            separator = ", ";
        }
        match self.except.len().saturating_sub(EXCEPTS) {
            0 => Ok(()),
            more => write!(f, " and {more} more"),
        }
    }
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Range {
                protocol,
                from: 0,
                to: u16::MAX,
            } => write!(f, "every {protocol} port"),
            Self::Range { protocol, from, to } if from == to => write!(f, "{protocol} {from}"),
            Self::Range { protocol, from, to } => write!(f, "{protocol} {from}-{to}"),
            Self::Named { protocol, name } => write!(f, "{protocol} port named {name}"),
        }
    }
}
