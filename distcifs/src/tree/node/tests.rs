//! Numbers and what they stand for.

use super::*;
use crate::repository::names::TicketId;

#[test]
fn a_number_says_what_it_stands_for() {
    let numbers = Numbers::default();
    let job = Arc::new(JobRef {
        name: Name::new("hello").unwrap(),
        uid: "0123".into(),
    });
    let queue = Arc::new(Name::new("execute-shell").unwrap());
    let key = TicketKey {
        queue: (*queue).clone(),
        id: TicketId::new("hello.7.0").unwrap(),
    };
    let ticket = Arc::new(TicketRef {
        key,
        created: 9,
        turn: 1,
    });
    let nodes = [
        Node::Root,
        Node::Top(Top::Jobs),
        Node::Top(Top::Trash),
        Node::Trashed(Arc::new(TrashId::parse("a@0f@7").unwrap())),
        Node::Job(job.clone()),
        Node::JobFile(job.clone(), JobFile::Trigger),
        Node::Link(job.clone(), Link::LastFailure),
        Node::Next(job.clone()),
        Node::Build(job.clone(), BUILD_MAX),
        Node::BuildFile(job.clone(), 7, BuildFile::Wait),
        Node::BuildParam(job.clone(), 7, PARAMS_MAX - 1),
        Node::Task(job.clone(), 7, 999),
        Node::TaskFile(job, 7, 999, TaskFile::By),
        Node::Queue(queue.clone()),
        Node::QueueFile(queue, QueueFile::Post),
        Node::Ticket(ticket.clone()),
        Node::TicketFile(ticket.clone(), TicketFile::Wait),
        Node::TicketParam(ticket, 12),
        Node::Published(77),
        Node::Scratch(3),
    ];
    for node in &nodes {
        assert_eq!(numbers.node(numbers.ino(node)).as_ref(), Some(node));
    }
}

fn a_ticket() -> Node {
    let key = TicketKey {
        queue: Name::new("q").unwrap(),
        id: TicketId::new("t").unwrap(),
    };
    let (created, turn) = (1, 1);
    Node::Ticket(Arc::new(TicketRef { key, created, turn }))
}

#[test]
fn a_ticket_is_forgotten_with_its_last_lookup() {
    let numbers = Numbers::default();
    let node = a_ticket();
    let ino = numbers.looked_up(&node, 0);
    assert_eq!(numbers.looked_up(&node, 0), ino);
    numbers.forget(ino, 1);
    assert!(numbers.node(ino).is_some());
    numbers.forget(ino, 1);
    assert!(numbers.node(ino).is_none());
}

/// Jobs come and go for ever: their numbers are kept as long as the kernel knows of them, and given again.
#[test]
fn numbers_of_jobs_that_went_are_free_again() {
    let job = |n: u64| {
        let (name, uid) = (Name::new("a").unwrap(), format!("{n}").into());
        Arc::new(JobRef { name, uid })
    };
    let numbers = Numbers::default();
    let kept = numbers.looked_up(&Node::Job(job(0)), 0);
    for n in 1..20_000 {
        let build = numbers.looked_up(&Node::Build(job(n), 1), 0);
        let folder = numbers.looked_up(&Node::Job(job(n)), 0);
        numbers.forget(build, 1);
        assert_eq!(numbers.node(folder), Some(Node::Job(job(n))));
        numbers.forget(folder, 1);
        assert_eq!(numbers.node(folder), None);
        // Listed, and never looked up.
        numbers.ino(&Node::Job(job(1_000_000 + n)));
    }
    assert!(lock(&numbers.jobs).len() <= super::numbered::SWEEP_MIN);
    assert_eq!(numbers.node(kept), Some(Node::Job(job(0))));

    let mut few = Numbered::up_to(3);
    let of = |few: &mut Numbered<JobRef>, n| few.number(&job(n));
    few.count(&job(1));
    assert_eq!((of(&mut few, 2), of(&mut few, 3), of(&mut few, 4)), (2, 3, 0));
    few.forget(1, 1);
    assert_eq!((of(&mut few, 4), of(&mut few, 2), few.value(0)), (1, 2, None));
}

/// The kernel looks a name up again just as it drops what it knew of it: two threads serve that.
#[test]
fn a_number_that_answers_a_lookup_is_known_until_that_is_forgotten() {
    let numbers = Numbers::default();
    let node = a_ticket();
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                for _ in 0..20_000 {
                    let ino = numbers.looked_up(&node, 0);
                    assert_eq!(numbers.node(ino).as_ref(), Some(&node));
                    numbers.forget(ino, 1);
                }
            });
        }
    });
}

/// "A user meets nobody but himself": what one user holds of a file is no other's inode, through a ticket either.
#[test]
fn each_user_has_files_that_are_written_to_for_himself() {
    let numbers = Numbers::default();
    let job = Arc::new(JobRef {
        name: Name::new("a").unwrap(),
        uid: "1".into(),
    });
    let Node::Ticket(ticket) = a_ticket() else { panic!() };
    let queue = Arc::new(Name::new("q").unwrap());
    let seen = |node| {
        let ticket = ticket.clone();
        Node::Seen(Arc::new(Seen { ticket, node }))
    };
    let trigger = Node::JobFile(job.clone(), JobFile::Trigger);
    let own = [
        trigger.clone(),
        seen(trigger),
        Node::JobFile(job.clone(), JobFile::Config),
        Node::QueueFile(queue.clone(), QueueFile::Post),
        Node::QueueFile(queue.clone(), QueueFile::Next),
        Node::BuildFile(job.clone(), 1, BuildFile::Ctl),
        Node::TicketFile(ticket.clone(), TicketFile::Result),
        Node::TicketParam(ticket.clone(), 0),
    ];
    for node in own {
        let (mine, yours) = (numbers.looked_up(&node, 1), numbers.looked_up(&node, 2));
        assert_ne!(mine, yours, "{}", node.path());
        assert_eq!(numbers.looked_up(&node, 1), mine, "{}", node.path());
        assert_eq!(numbers.node(mine), Some(node.clone()));
        numbers.forget(mine, 2);
        assert_eq!((numbers.node(mine), numbers.node(yours)), (None, Some(node)));
        numbers.forget(yours, 1);
    }
    assert_eq!(lock(&numbers.apart).len(), 0);
    // Folders are one for all: whoever stands in one stands there.
    for node in [
        Node::Queue(queue),
        Node::JobFile(job, JobFile::Builds),
        Node::TicketFile(ticket, TicketFile::Params),
    ] {
        assert_eq!(numbers.looked_up(&node, 1), numbers.looked_up(&node, 2));
    }
}
