//! Integration tests: real servers, real files, real `terraform`.
//!
//! | module | is |
//! | --- | --- |
//! | `aftermath` | receipts, guardians and locks after a killed run, for other modules to look at |
//! | `answers` | what is not DynamoDB's answer is not taken for one |
//! | `around` | `run` and further locks where not all can be known, or one has several names |
//! | `aws_settings` | which of the backend's settings reach the wire: credentials, roles, proxies, TLS |
//! | `canary` | a signal to every process of the job reaches the child once |
//! | `certificates` | whose certificates are taken |
//! | `changes` | what Terraform would use changes during the wait |
//! | `cli` | mistakes, exit codes, streams |
//! | `clocks` | wall clocks that are a day apart |
//! | `completions` | completion scripts, in their shells, and the manual page |
//! | `contention` | mutual exclusion under load |
//! | `contract` | one contract for every store of registers |
//! | `credentials` | credentials that run out during a hold |
//! | `doctor` | `doctor` |
//! | `emulators` | a real Terraform works with the servers of the tests |
//! | `faults` | the whole program while its store misbehaves |
//! | `file_store` | the files of `file://` locks, and what may be put in their way |
//! | `full_disk` | a disk for receipts that is full or read-only |
//! | `gitlab` | on GitLab: a wait is a section, outputs are in a dotenv file |
//! | `guardian` | tfwrap is killed: one interrupt for the child, then the lock is given back |
//! | `handed_over` | commands that are handed over although they lock |
//! | `history` | what runs leave in the history, and what `history` says of them |
//! | `help` | help, and what is said of a mistyped command |
//! | `hold` | `hold` and `release` |
//! | `http_state` | a server for Terraform's `http` backend |
//! | `identity` | whose credentials a lock is asked for with |
//! | `interop` | tfwrap and stock Terraform over one state |
//! | `late_changes` | what Terraform reads changes once it was started |
//! | `leases` | who is fenced, what is noticed, what is taken over |
//! | `led_elsewhere` | a script in Terraform's place that leads it to another state |
//! | `line` | who comes first has the lock first |
//! | `linked_states` | a state reached by links |
//! | `local_line` | the line beside a local state |
//! | `local_state` | the local backend's lock |
//! | `mistyped` | a workspace that is not there |
//! | `nesting` | every Terraform below a `run` is locked once |
//! | `odd_files` | odd files of Terraform's own, with stock Terraform as the measure |
//! | `one_stop` | one stop, through whatever, is one interrupt |
//! | `optimistic` | plans without the lock: `--plan-lock optimistic` |
//! | `other_backends` | backends whose lock only Terraform can take |
//! | `outdated` | an older commit after a newer one: skipped, refused, or run |
//! | `pair` | both locks of the S3 backend at once |
//! | `paths` | the paths that Terraform makes for itself |
//! | `program` | which program is run |
//! | `pty` | on a terminal, under a real shell |
//! | `receipts` | receipts that cannot be kept, and what is in those that can |
//! | `recover` | `recover` |
//! | `redrawn` | the line that is redrawn while waiting |
//! | `s3_example` | `examples/s3-dynamodb` |
//! | `said` | what is said to a new user, a row for each input |
//! | `s3_lock` | the lock file in S3: contract, interop, odd stores |
//! | `saved_plan` | `apply` of a saved plan |
//! | `seeded` | random tests that name their seed |
//! | `siblings` | commands side by side below one `run` |
//! | `status` | `status` and `status --all` |
//! | `step_summary` | the step summary of GitHub Actions |
//! | `stops` | a stop or a loss while no child runs |
//! | `store_faults` | what stores make of what goes wrong |
//! | `support` | servers, processes and proxies: what the suites share |
//! | `supervision` | signals, ends and streams of a child without a terminal |
//! | `table` | `table create` and `table policy` |
//! | `telemetry` | spans at a receiver of OpenTelemetry's |
//! | `tidy` | rules of the house |
//! | `unlock` | `unlock` |
//! | `versions` | each Terraform that there is |
//! | `visibility` | processes that `/proc` hides, and other namespaces |
//! | `wait` | `wait` |
//! | `workspace_trap` | the workspace that Terraform makes under another one's lock |
//! | `wrapped` | the wrapper around a scripted child, for other modules |

mod aftermath;
mod answers;
mod around;
mod aws_settings;
mod canary;
mod certificates;
mod changes;
mod cli;
mod clocks;
mod completions;
mod contention;
mod contract;
mod credentials;
mod doctor;
mod emulators;
mod faults;
mod file_store;
mod full_disk;
mod gitlab;
mod guardian;
mod handed_over;
mod help;
mod history;
mod hold;
mod http_state;
mod identity;
mod interop;
mod late_changes;
mod leases;
mod led_elsewhere;
mod line;
mod linked_states;
mod local_line;
mod local_state;
mod mistyped;
mod nesting;
mod odd_files;
mod one_stop;
mod optimistic;
mod other_backends;
mod outdated;
mod pair;
mod paths;
mod program;
mod pty;
mod receipts;
mod recover;
mod redrawn;
mod s3_example;
mod s3_lock;
mod said;
mod saved_plan;
#[path = "../support/seeded.rs"]
mod seeded;
mod siblings;
mod status;
mod step_summary;
mod stops;
mod store_faults;
mod supervision;
mod table;
mod telemetry;
mod tidy;
mod unlock;
mod versions;
mod visibility;
mod wait;
mod workspace_trap;
mod wrapped;

#[path = "../support/support.rs"]
mod support;
