//! The cases, grouped by call. Lower entries: see `fixture.rs`. `new…` names
//! never exist below.

/// A name and a script for [`Machine`](super::script::Machine).
pub(crate) type Case = (&'static str, &'static str);

pub(crate) const GROUPS: &[(&str, &[Case])] = &[
    ("open", OPEN),
    ("write", WRITE),
    ("truncate", TRUNCATE),
    ("rename", RENAME),
    ("rename_dir", RENAME_DIR),
    ("link", LINK),
    ("unlink", UNLINK),
    ("chmod", CHMOD),
    ("chown", CHOWN),
    ("times", TIMES),
    ("dirs", DIRS),
    ("symlink", SYMLINK),
    ("nodes", NODES),
    ("xattr", XATTR),
    ("whiteout", WHITEOUT),
    ("special", SPECIAL),
    ("permission", PERMISSION),
    ("names", NAMES),
];

const OPEN: &[Case] = &[
    (
        "read only does not copy up",
        "open dir/file rd; stat dir/file psn; cat dir/file",
    ),
    (
        "write only",
        "open dir/file wr; cat dir/file; stat dir/file psn",
    ),
    (
        "truncate on open",
        "open dir/file wr,trunc; stat dir/file s; cat dir/file",
    ),
    (
        "truncate needs no write flag for root",
        "open dir/file rd,trunc; stat dir/file s",
    ),
    ("create new", "open new wr,creat 600; stat new psu"),
    (
        "create existing",
        "open dir/file wr,creat 600; stat dir/file p",
    ),
    (
        "exclusive on lower file",
        "open dir/file wr,creat,excl; cat dir/file",
    ),
    (
        "exclusive on lower symlink",
        "open link wr,creat,excl; open dangling wr,creat,excl",
    ),
    (
        "create through a dangling link",
        "open dangling wr,creat; lstat nowhere ts; lstat dangling t",
    ),
    (
        "exclusive new",
        "open new wr,creat,excl 640; open new wr,creat,excl; stat new p",
    ),
    (
        "append",
        "hold 0 dir/file wr,append; append 0 tail; cat dir/file",
    ),
    (
        "directory for writing",
        "open dir wr; open dir rw; open dir rd; open dir rd,dir",
    ),
    (
        "directory flag on a file",
        "open dir/file rd,dir; open link rd,dir; open dirlink rd,dir",
    ),
    (
        "create a directory name",
        "open dir wr,creat; open dir wr,creat,excl; open dir rd,creat",
    ),
    (
        "nofollow on a link",
        "open link rd,nofollow; open link path,nofollow; open dir/file rd,nofollow",
    ),
    (
        "loop of links",
        "open loop1 rd; stat loop1; lstat loop1 t; open loop1 wr,creat",
    ),
    (
        "missing parent",
        "open none/file wr,creat; open dir/file/x rd; open dir/none rd",
    ),
    (
        "trailing slash on a file",
        "open dir/file/ rd; stat dir/file/ s; open new/ wr,creat",
    ),
    (
        "path descriptor",
        "hold 0 dir/file path; fstat 0 s; fchmod 0 600",
    ),
    (
        "umask applies",
        "umask 027; open new wr,creat 666; mkdir newd 777; stat new p; stat newd p",
    ),
    (
        "fifo without a peer",
        "open fifo wr,nonblock; hold 0 fifo rd,nonblock; open fifo wr,nonblock",
    ),
    ("socket", "open sock rd; open sock wr"),
    (
        "directory with write and truncate",
        "open dir wr,trunc; open dir rd,trunc; ls empty",
    ),
    (
        "two descriptors across a copy up",
        "hold 0 dir/file rd; hold 1 dir/file rw; write 1 0 HELLO; read 1 0 5; fstat 1 s; cat dir/file",
    ),
    (
        "reader opened before a truncate",
        "hold 0 dir/big rd; open dir/big wr,trunc; stat dir/big s; fstat 0 t",
    ),
    (
        "unlinked while open",
        "hold 0 dir/file rd; unlink dir/file; read 0 0 5; fstat 0 s; stat dir/file",
    ),
    (
        "unlinked while open for writing",
        "hold 0 dir/file rw; unlink dir/file; write 0 0 J; read 0 0 6; stat dir/file; fstat 0 n",
    ),
    (
        "noatime",
        "open dir/file rd,noatime; as 1000 1000; open dir/file rd,noatime; open owned/file rd,noatime",
    ),
    ("direct", "hold 0 dir/big rd,direct; fstat 0 s"),
];

const WRITE: &[Case] = &[
    (
        "into the middle",
        "hold 0 dir/file rw; write 0 2 LL; read 0 0 16; fstat 0 s",
    ),
    (
        "past the end makes a hole",
        "hold 0 dir/file rw; write 0 8k x; fstat 0 s; read 0 5 4",
    ),
    (
        "big file copies up whole",
        "hold 0 dir/big rw; write 0 100000 MARK; read 0 99998 8; fstat 0 s",
    ),
    (
        "sparse file copies up with its content",
        "hold 0 dir/sparse rw; write 0 10 X; fstat 0 s; read 0 0 16; seek 0 end",
    ),
    (
        "read only descriptor",
        "hold 0 dir/file rd; write 0 0 x; ftruncate 0 0",
    ),
    (
        "write only descriptor",
        "hold 0 dir/file wr; read 0 0 1; write 0 0 x",
    ),
    (
        "mapped write",
        "hold 0 dir/file rw; mmap 0 1 EEE; read 0 0 6; cat dir/file",
    ),
    (
        "mapped write into a big file",
        "hold 0 dir/big rw; mmap 0 200000 MAPPED; readmmap 0 199998 10; read 0 199998 10",
    ),
    (
        "mapping of a lower file",
        "hold 0 dir/big rd; readmmap 0 4096 8; mmap 0 0 x",
    ),
    (
        "fsync",
        "hold 0 dir/file rw; write 0 0 x; fsync 0; hold 1 dir rd; fsync 1",
    ),
    (
        "sync flag",
        "hold 0 new rw,creat,sync; write 0 0 data; cat new",
    ),
    (
        "second hard link is parted",
        "hold 0 hard1 rw; write 0 0 X; cat hard1; cat hard2; stat hard1 n; stat hard2 n",
    ),
    (
        "set-user-id goes on a write by another",
        "chown suid 1000 1000; chmod suid 4777; as 1001 1001; hold 0 suid wr; write 0 0 x; lstat suid p",
    ),
    (
        "set-user-id stays on a write by root",
        "hold 0 suid wr; write 0 0 x; lstat suid p",
    ),
    (
        "capability goes on a write",
        "hold 0 capable wr; write 0 0 x; getxattr capable security.capability; stat capable p",
    ),
    (
        "lock",
        "hold 0 dir/file rd; flock 0; hold 1 dir/file rd; flock 1",
    ),
];

const TRUNCATE: &[Case] = &[
    (
        "to nothing",
        "truncate dir/file 0; stat dir/file s; cat dir/file",
    ),
    ("shorter", "truncate dir/file 3; cat dir/file"),
    (
        "longer",
        "truncate dir/file 10k; stat dir/file s; hold 0 dir/file rd; read 0 4 4",
    ),
    (
        "big to a few",
        "truncate dir/big 5; stat dir/big s; cat dir/big",
    ),
    (
        "through a link",
        "truncate link 2; cat dir/file; lstat link t",
    ),
    ("directory", "truncate dir 0"),
    (
        "missing",
        "truncate none 0; truncate dangling 0; truncate dir/file/x 0",
    ),
    ("loop", "truncate loop1 0"),
    ("negative", "truncate dir/file -1"),
    ("fifo and device", "truncate fifo 0; truncate null 0"),
    (
        "by descriptor",
        "hold 0 dir/file rw; ftruncate 0 1; fstat 0 s; cat dir/file",
    ),
    (
        "set-user-id goes",
        "chown suid 1000 1000; chmod suid 6777; as 1001 1001; truncate suid 0; lstat suid p",
    ),
    (
        "not allowed",
        "as 1000 1000; truncate dir/file 0; truncate private/secret 0",
    ),
];

const RENAME: &[Case] = &[
    (
        "lower file",
        "rename dir/file dir/new; lstat dir/file; cat dir/new; ls dir",
    ),
    (
        "to another directory",
        "rename dir/file empty/file; cat empty/file; lstat dir/file",
    ),
    (
        "over a lower file",
        "rename dir/exec dir/file; cat dir/file; lstat dir/exec; ls dir",
    ),
    (
        "new over a lower file",
        "open new wr,creat; rename new dir/file; stat dir/file s",
    ),
    (
        "lower over a new file",
        "open new wr,creat; rename dir/file new; cat new; lstat dir/file",
    ),
    ("onto itself", "rename dir/file dir/file; cat dir/file"),
    (
        "onto its own hard link",
        "rename hard1 hard2; lstat hard1 t; lstat hard2 t",
    ),
    (
        "missing source",
        "rename none x; rename none dir/file; rename dir/none/x y",
    ),
    (
        "file over a directory",
        "rename dir/file empty; lstat empty t",
    ),
    (
        "file over a full directory",
        "rename link dir; lstat link t",
    ),
    (
        "directory over a file",
        "mkdir newd 755; rename newd dir/file; cat dir/file",
    ),
    (
        "symlink",
        "rename link newlink; readlink newlink; lstat link",
    ),
    (
        "over a symlink",
        "rename dir/file link; lstat link t; cat link; lstat dir/file",
    ),
    ("fifo", "rename fifo dir/fifo; lstat dir/fifo t; lstat fifo"),
    (
        "device",
        "rename null dir/null; lstat dir/null tr; lstat null",
    ),
    (
        "no replace onto a lower file",
        "rename dir/exec dir/file noreplace; cat dir/file; lstat dir/exec t",
    ),
    (
        "no replace onto nothing",
        "rename dir/file dir/new noreplace; cat dir/new",
    ),
    (
        "no replace where a lower file was",
        "unlink dir/exec; rename dir/file dir/exec noreplace; cat dir/exec; ls dir",
    ),
    (
        "exchange two lower files",
        "rename dir/file dir/exec exchange; cat dir/file; cat dir/exec; stat dir/file p",
    ),
    (
        "exchange lower and new",
        "open new wr,creat; rename new dir/file exchange; cat new; stat dir/file s",
    ),
    ("exchange with nothing", "rename dir/file none exchange"),
    (
        "exchange file and new directory",
        "mkdir newd 755; rename newd dir/file exchange; lstat newd t; lstat dir/file t",
    ),
    (
        "whiteout flag",
        "rename dir/file dir/new whiteout; lstat dir/file; cat dir/new",
    ),
    (
        "several flags",
        "rename dir/file new noreplace; rename new dir/file; cat dir/file",
    ),
    (
        "into a missing directory",
        "rename dir/file none/file; rename dir/file dir/exec/file; cat dir/file",
    ),
    (
        "dot and dot dot",
        "rename dir/sub/. new; rename dir/sub/.. new; rename empty dir/.",
    ),
    (
        "keeps owner, mode, times and xattrs",
        "rename tagged newtagged; stat newtagged pum; listxattr newtagged; getxattr newtagged user.a",
    ),
    (
        "chain",
        "rename dir/file a1; rename a1 b1; rename b1 dir/file; cat dir/file; ls dir",
    ),
];

const RENAME_DIR: &[Case] = &[
    ("lower directory", "rename dir new; lstat dir t; lstat new"),
    (
        "empty lower directory",
        "rename empty new; lstat empty t; lstat new",
    ),
    (
        "new directory",
        "mkdir newd 755; open newd/f wr,creat; rename newd newe; ls newe; lstat newd",
    ),
    (
        "new over an empty lower directory",
        "mkdir newd 700; open newd/f wr,creat; rename newd empty; ls empty; stat empty p",
    ),
    (
        "new over a full lower directory",
        "mkdir newd 755; rename newd dir; ls newd",
    ),
    (
        "new over an emptied lower directory",
        "unlink pair/a; unlink pair/b; mkdir newd 755; open newd/c wr,creat; rename newd pair; ls pair",
    ),
    (
        "into itself",
        "mkdir newd 755; mkdir newd/x 755; rename newd newd/x/y; rename newd newd/x; ls newd",
    ),
    ("lower into itself", "rename dir dir/sub/x; ls dir/sub"),
    (
        "new directory into a lower one",
        "mkdir newd 755; rename newd dir/sub/newd; ls dir/sub",
    ),
    (
        "parent of new becomes it",
        "mkdir newd 755; mkdir newd/x 755; rename newd/x newd",
    ),
    (
        "exchange new and lower",
        "mkdir newd 755; rename newd dir exchange; ls newd",
    ),
    (
        "exchange two new",
        "mkdir na 711; mkdir nb 755; open nb/f wr,creat; rename na nb exchange; ls na; stat nb p",
    ),
    (
        "remade after removal",
        "rmdir empty; mkdir empty 700; rename empty newe; stat newe p; lstat empty",
    ),
    (
        "no replace",
        "mkdir newd 755; rename newd empty noreplace; rename newd newe noreplace; ls newe",
    ),
];

const LINK: &[Case] = &[
    (
        "to a lower file",
        "link dir/file new; stat new sn; stat dir/file n; samefile new dir/file",
    ),
    (
        "to a lower hard link",
        "link hard1 hard3; stat hard3 n; stat hard1 n; samefile hard1 hard3",
    ),
    (
        "onto an existing name",
        "link dir/file dir/exec; link dir/file empty; link dir/file link",
    ),
    ("to a directory", "link dir newd; link empty newd"),
    (
        "to a symlink itself",
        "link link newlink; lstat newlink t; readlink newlink",
    ),
    (
        "through a symlink",
        "linkfollow link new; lstat new ts; samefile new dir/file",
    ),
    (
        "missing",
        "link none new; link dangling newd; linkfollow dangling newf; link dir/file none/new",
    ),
    (
        "write shows in both",
        "link dir/file new; hold 0 new rw; write 0 0 BOTH; cat dir/file; stat new n",
    ),
    (
        "unlink one",
        "link dir/file new; unlink dir/file; cat new; stat new n",
    ),
    (
        "to a fifo and a device",
        "link fifo newfifo; link null newnull; lstat newfifo tn; lstat newnull tr",
    ),
    (
        "where a lower file was",
        "unlink dir/exec; link dir/file dir/exec; cat dir/exec; stat dir/exec n",
    ),
    (
        "not owner",
        "as 1000 1000; link dir/file sticky/new; link owned/file owned/new; stat owned/new n",
    ),
];

const UNLINK: &[Case] = &[
    (
        "lower file",
        "unlink dir/file; lstat dir/file; ls dir; unlink dir/file",
    ),
    ("new file", "open new wr,creat; unlink new; lstat new"),
    ("directory", "unlink dir; unlink empty"),
    (
        "symlink not its target",
        "unlink link; lstat link; cat dir/file",
    ),
    (
        "dangling and loop",
        "unlink dangling; unlink loop1; lstat loop2 t",
    ),
    (
        "one of two hard links",
        "unlink hard1; cat hard2; stat hard2 n",
    ),
    (
        "fifo, socket, device",
        "unlink fifo; unlink sock; unlink null; lstat fifo; lstat null",
    ),
    (
        "below a file",
        "unlink dir/file/x; unlink none/x; unlink dir/file/",
    ),
    (
        "then created again",
        "unlink dir/file; open dir/file wr,creat 600; stat dir/file ps; unlink dir/file; lstat dir/file",
    ),
    (
        "then a directory of that name",
        "unlink dir/file; mkdir dir/file 755; open dir/file/x wr,creat; ls dir/file",
    ),
    (
        "many of many",
        "unlink many/f000; unlink many/f150; unlink many/f299; lstat many/f150; stat many/f151 s",
    ),
    (
        "sticky directory",
        "as 1000 1000; unlink sticky/foreign; unlink sticky/mine; ls sticky",
    ),
    (
        "not allowed",
        "as 1000 1000; unlink dir/file; unlink private/secret",
    ),
];

const CHMOD: &[Case] = &[
    (
        "lower file",
        "chmod dir/file 600; stat dir/file psn; cat dir/file",
    ),
    ("lower directory", "chmod dir 700; stat dir p; ls dir"),
    ("root of the union", "chmod . 711; stat . p"),
    (
        "through a link",
        "chmod link 640; stat dir/file p; lstat link t",
    ),
    (
        "missing",
        "chmod none 600; chmod dangling 600; chmod loop1 600; chmod dir/file/x 600",
    ),
    (
        "special bits",
        "chmod dir/file 6755; stat dir/file p; chmod dir 3777; stat dir p",
    ),
    (
        "by descriptor",
        "hold 0 dir/file rd; fchmod 0 601; stat dir/file p; fstat 0 p",
    ),
    (
        "fifo and device",
        "chmod fifo 600; chmod null 600; stat fifo p; stat null p",
    ),
    (
        "set-group-id of a foreign group goes",
        "as 1000 1000; chmod owned/file 2755; stat owned/file p",
    ),
    (
        "not owner",
        "as 1000 1000; chmod dir/file 777; chmod owned/file 777; stat owned/file p",
    ),
    (
        "one of two hard links",
        "chmod hard1 600; stat hard1 pn; stat hard2 pn",
    ),
    (
        "set-group-id directory gives its group",
        "chown empty 0 77; chmod empty 2755; open empty/f wr,creat; mkdir empty/d 755; stat empty/f u; stat empty/d pu",
    ),
];

const CHOWN: &[Case] = &[
    (
        "lower file",
        "chown dir/file 12 34; stat dir/file pus; cat dir/file",
    ),
    (
        "owner only, group only",
        "chown dir/file 12 -; stat dir/file u; chown dir/file - 34; stat dir/file u",
    ),
    ("nothing", "chown dir/file - -; stat dir/file u"),
    ("lower directory", "chown dir 5 6; stat dir u; ls dir"),
    (
        "symlink itself",
        "lchown link 7 8; lstat link u; stat link u",
    ),
    (
        "through a symlink",
        "chown link 7 8; lstat link u; stat link u",
    ),
    ("set-user-id goes, by root", "chown suid 1 1; stat suid p"),
    (
        "set-user-id goes, by owner",
        "chown suid 1000 1000; chmod suid 6755; as 1000 1000; chown suid - 1000; stat suid p",
    ),
    (
        "set-group-id without execute stays",
        "chmod dir/file 2644; chown dir/file 1 1; stat dir/file p",
    ),
    (
        "capability goes",
        "chown capable 1 1; getxattr capable security.capability",
    ),
    (
        "large ids",
        "chown dir/file 4000000000 4000000001; stat dir/file u",
    ),
    (
        "not allowed",
        "as 1000 1000; chown dir/file 1000 1000; chown owned/file 1001 -; chown owned/file - 1000; chown owned/file - 5",
    ),
    (
        "missing",
        "chown none 1 1; chown dangling 1 1; lchown dangling 1 1; lstat dangling u",
    ),
    ("fifo", "chown fifo 3 4; lstat fifo tu"),
];

const TIMES: &[Case] = &[
    (
        "set both",
        "utimes dir/file 100.000000001 200.999999999; stat dir/file am; cat dir/file",
    ),
    (
        "omit one",
        "utimes dir/file omit 300.5; stat dir/file m; utimes dir/file 400.5 omit; stat dir/file m",
    ),
    ("before 1970", "utimes dir/file -5.7 -6.8; stat dir/file am"),
    (
        "far future",
        "utimes dir/file 4102444800.1 4102444800.2; stat dir/file am",
    ),
    ("directory", "utimes dir 1.0 2.0; stat dir m"),
    (
        "symlink itself",
        "lutimes link 1.0 2.0; lstat link m; stat link m",
    ),
    (
        "bad nanoseconds",
        "utimes dir/file bad 1.0; utimes dir/file 1.0 bad",
    ),
    (
        "now needs write permission",
        "as 1000 1000; utimes dir/file now now; utimes writable now now",
    ),
    (
        "a time needs ownership",
        "as 1000 1000; utimes writable 1.0 1.0; utimes owned/file 1.0 1.0; stat owned/file m",
    ),
    (
        "unwritten files keep theirs",
        "stat dir/file m; stat dir/big m; lstat link m; stat dir/sub m; lstat fifo m",
    ),
    (
        "kept by a copy up",
        "chmod dir/big 600; stat dir/big m; link dir/exec new; stat new m",
    ),
    (
        "changed parents only",
        "open dir/sub/new wr,creat; stat deep/1/2 m; stat dir/sub/a m",
    ),
    (
        "missing",
        "utimes none 1.0 1.0; utimes dangling 1.0 1.0; lutimes dangling 1.0 1.0; lstat dangling m",
    ),
];

const DIRS: &[Case] = &[
    ("make", "mkdir new 750; stat new tp; ls new"),
    (
        "make on an existing name",
        "mkdir dir 755; mkdir dir/file 755; mkdir link 755; mkdir dangling 755",
    ),
    (
        "make below nothing",
        "mkdir none/x 755; mkdir dir/file/x 755; mkdir loop1/x 755",
    ),
    (
        "make in a lower directory",
        "mkdir dir/sub/new 755; ls dir/sub; stat dir/sub p",
    ),
    ("make with a slash at the end", "mkdir new/ 755; stat new t"),
    (
        "remove an empty lower directory",
        "rmdir empty; lstat empty; rmdir empty",
    ),
    ("remove a full one", "rmdir dir; rmdir dir/sub; ls dir/sub"),
    (
        "remove an emptied one",
        "unlink pair/a; unlink pair/b; ls pair; rmdir pair; lstat pair",
    ),
    (
        "remove one with new files",
        "open empty/x wr,creat; rmdir empty; unlink empty/x; rmdir empty; lstat empty",
    ),
    (
        "remove a file",
        "rmdir dir/file; rmdir link; rmdir dirlink; rmdir fifo",
    ),
    ("remove dot", "rmdir dir/sub/.; rmdir dir/sub/..; rmdir ."),
    (
        "removed and made again is empty",
        "unlink pair/a; unlink pair/b; rmdir pair; mkdir pair 700; ls pair; open pair/a wr,creat; ls pair; stat pair/a s",
    ),
    (
        "removed while open",
        "hold 0 empty rd; rmdir empty; fstat 0 t; mkdir empty 755; ls empty",
    ),
    (
        "list after changes",
        "open many/f0005 wr,creat; unlink many/f001; mkdir many/d 755; rename many/f002 many/g002; ls many",
    ),
    (
        "link counts of new ones",
        "mkdir new 755; mkdir new/a 755; mkdir new/b 755; stat new n; rmdir new/a; stat new n",
    ),
    (
        "deep",
        "mkdir deep/1/2/3/4 755; open deep/1/2/3/4/f wr,creat; ls deep/1/2/3; unlink deep/1/2/3/file; ls deep/1/2/3",
    ),
    (
        "make without permission",
        "as 1000 1000; mkdir dir/x 755; mkdir owned/x 755; mkdir sticky/x 755; stat owned/x pu",
    ),
    (
        "remove without permission",
        "as 1000 1000; rmdir empty; rmdir sticky/dir; ls sticky",
    ),
];

const SYMLINK: &[Case] = &[
    (
        "make",
        "symlink dir/file new; lstat new ts; readlink new; cat new",
    ),
    (
        "onto an existing name",
        "symlink x dir/file; symlink x empty; symlink x dangling",
    ),
    (
        "dangling",
        "symlink none new; stat new; lstat new ts; open new rd",
    ),
    (
        "read others",
        "readlink link; readlink dangling; readlink dir; readlink dir/file; readlink none",
    ),
    (
        "long target",
        "symlink T4095 new; lstat new s; symlink T4096 new2; readlink new",
    ),
    (
        "loop of new ones",
        "symlink lb la; symlink la lb; stat la; open la rd",
    ),
    (
        "chain",
        "symlink link c1; symlink c1 c2; symlink c2 c3; cat c3",
    ),
    (
        "to a directory",
        "ls dirlink; open dirlink/new wr,creat; ls dir; stat dirlink/file s",
    ),
    (
        "up and around",
        "symlink ../dir/file empty/up; cat empty/up; symlink . here; stat here/here/dir/file s",
    ),
    (
        "replaced by a file",
        "unlink link; open link wr,creat; lstat link ts; stat dir/file s",
    ),
];

const NODES: &[Case] = &[
    ("fifo", "mknod new p 644; lstat new tp; mknod new p 644"),
    ("socket", "mknod new s 755; lstat new tp"),
    (
        "devices",
        "mknod newc c 600 1 3; mknod newb b 640 7 0; lstat newc tpr; lstat newb tpr",
    ),
    (
        "null works",
        "mknod newnull c 666 1 3; hold 0 newnull rw; append 0 x; read 0 0 4",
    ),
    (
        "lower null works",
        "hold 0 null rw; append 0 gone; read 0 0 4",
    ),
    (
        "large numbers",
        "mknod new c 600 4095 1048575; lstat new r; lstat wide r",
    ),
    ("regular", "mknod new f 600; lstat new tps"),
    (
        "whiteout device by hand",
        "mknod new c 600 0 0; lstat new t; ls empty",
    ),
    (
        "over a lower file",
        "mknod dir/file p 644; mknod fifo p 644; cat dir/file",
    ),
    (
        "where a lower file was",
        "unlink dir/file; mknod dir/file p 600; lstat dir/file t; ls dir",
    ),
    (
        "not as a user",
        "as 1000 1000; mknod owned/dev c 600 1 3; mknod owned/fifo p 600; lstat owned/fifo tu",
    ),
    (
        "missing parent",
        "mknod none/x p 600; mknod dir/file/x p 600",
    ),
];

const XATTR: &[Case] = &[
    (
        "read lower",
        "listxattr tagged; getxattr tagged user.a; getxattr tagged user.empty; getxattr tagged user.none",
    ),
    (
        "set on a lower file",
        "setxattr tagged user.c three; listxattr tagged; getxattr tagged user.a; getxattr tagged user.c",
    ),
    (
        "replace a lower value",
        "setxattr tagged user.a changed; getxattr tagged user.a; listxattr tagged",
    ),
    (
        "remove a lower value",
        "removexattr tagged user.a; getxattr tagged user.a; listxattr tagged; removexattr tagged user.a",
    ),
    (
        "create and replace flags",
        "setxattr tagged user.a x create; setxattr tagged user.z x replace; setxattr tagged user.z x create; listxattr tagged",
    ),
    (
        "on a directory",
        "setxattr dir user.d dd; getxattr dir user.d; ls dir; listxattr tagdir",
    ),
    (
        "on the root",
        "setxattr . user.root r; getxattr . user.root; listxattr .",
    ),
    (
        "trusted and security",
        "setxattr dir/file trusted.x t; setxattr dir/file security.x s; listxattr dir/file; getxattr dir/file trusted.x",
    ),
    (
        "overlay's own names",
        "setxattr dir/file trusted.overlay.opaque y; getxattr dir/file trusted.overlay.opaque; listxattr dir/file",
    ),
    (
        "unknown prefix",
        "setxattr dir/file bogus.x v; getxattr dir/file bogus.x; setxattr dir/file user. v",
    ),
    (
        "user names on special files",
        "setxattr link user.x v; setxattr fifo user.x v; setxattr null user.x v; getxattr link user.x",
    ),
    (
        "large value",
        "setxattr dir/file user.big *2000; setxattr dir/file user.huge *65537; listxattr dir/file",
    ),
    (
        "acl",
        "getxattr acl system.posix_acl_access; as 1000 1000; access acl r; access acl w; as 1001 1001; access acl r",
    ),
    (
        "acl after a chmod",
        "chmod acl 600; as 1000 1000; access acl r; open acl rd",
    ),
    (
        "survive a rename and a link",
        "link tagged new; rename tagged new2; getxattr new user.a; getxattr new2 user.b",
    ),
    (
        "not as another user",
        "as 1000 1000; setxattr dir/file user.x v; getxattr tagged user.a; getxattr private/secret user.a; setxattr writable user.x v; getxattr writable user.x",
    ),
    (
        "trusted is hidden from users",
        "as 1000 1000; listxattr trusted; getxattr trusted trusted.t",
    ),
    (
        "long name",
        "setxattr dir/file user.NNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNN v; listxattr dir/file",
    ),
];

const WHITEOUT: &[Case] = &[
    (
        "hides and shows again",
        "unlink dir/file; ls dir; open dir/file wr,creat; ls dir; stat dir/file s",
    ),
    (
        "directory replaced by a file",
        "rmdir empty; open empty wr,creat; lstat empty t; unlink empty; lstat empty; mkdir empty 755; ls empty",
    ),
    (
        "file replaced by a directory stays opaque",
        "unlink dir/file; mkdir dir/file 755; unlink dir/exec; ls dir/file; ls dir",
    ),
    (
        "opaque directory",
        "unlink pair/a; unlink pair/b; rmdir pair; mkdir pair 755; ls pair; mkdir pair/a 755; ls pair; lstat pair/b",
    ),
    (
        "in a directory that then goes",
        "unlink pair/a; unlink pair/b; rmdir pair; lstat pair; lstat pair/a",
    ),
    (
        "rename over it",
        "unlink dir/exec; rename dir/file dir/exec; ls dir; cat dir/exec",
    ),
    (
        "link over it",
        "unlink dir/exec; link dir/file dir/exec; stat dir/exec n; unlink dir/exec; lstat dir/exec; cat dir/file",
    ),
    (
        "symlink over it",
        "unlink dir/exec; symlink file dir/exec; cat dir/exec",
    ),
    (
        "all of a directory",
        "unlink dir/sub/a; unlink dir/sub/b; ls dir/sub; rmdir dir/sub; ls dir",
    ),
    (
        "whole tree",
        "unlink deep/1/2/3/file; rmdir deep/1/2/3; rmdir deep/1/2; rmdir deep/1; rmdir deep; lstat deep; mkdir deep 755; ls deep",
    ),
    (
        "is not listed and cannot be opened",
        "unlink dir/file; open dir/file rd; open dir/file path; access dir/file r; ls dir",
    ),
];

const SPECIAL: &[Case] = &[
    (
        "temporary file linked in",
        "tmpfile 0 dir 600; write 0 0 temp; linkfd 0 dir/new; cat dir/new; stat dir/new pn",
    ),
    (
        "temporary file dropped",
        "tmpfile 0 dir 600; write 0 0 temp; fstat 0 n; close 0; ls dir",
    ),
    (
        "temporary file linked over an existing name",
        "tmpfile 0 dir 600; linkfd 0 dir/file; cat dir/file",
    ),
    (
        "temporary file where a lower file was",
        "unlink dir/exec; tmpfile 0 dir 644; linkfd 0 dir/exec; stat dir/exec s",
    ),
    (
        "allocate",
        "hold 0 dir/file rw; fallocate 0 plain 0 8192; fstat 0 s; read 0 0 5",
    ),
    (
        "allocate beyond the end without growing",
        "hold 0 dir/file rw; fallocate 0 keep 0 8192; fstat 0 s",
    ),
    (
        "punch a hole",
        "hold 0 dir/big rw; fallocate 0 punch 4096 4096; fstat 0 s; read 0 4096 4; read 0 4090 4; seek 0 hole 0",
    ),
    (
        "zero a range",
        "hold 0 dir/big rw; fallocate 0 zero 8192 4096; read 0 8192 4; fstat 0 s",
    ),
    (
        "allocate on a reader",
        "hold 0 dir/file rd; fallocate 0 plain 0 10",
    ),
    (
        "allocate on a fifo",
        "hold 0 fifo rw; fallocate 0 plain 0 10",
    ),
    (
        "allocate nothing",
        "hold 0 dir/file rw; fallocate 0 plain 0 0",
    ),
    (
        "inode number survives the first write",
        "ino dir/file; hold 0 dir/file rw; write 0 0 x; sameino dir/file; chmod dir/file 600; sameino dir/file",
    ),
    (
        "inode number survives a rename",
        "ino dir/file; rename dir/file dir/new; sameino dir/new",
    ),
    (
        "inode number of a directory",
        "ino dir; open dir/new wr,creat; sameino dir; chmod dir 700; sameino dir",
    ),
    (
        "two lower hard links are one file",
        "samefile hard1 hard2; stat hard1 n",
    ),
    (
        "data and holes of a copied-up file",
        "hold 0 dir/file rw; ftruncate 0 1024k; write 0 512k x; seek 0 data 64k; seek 0 hole 600k; seek 0 data 900k",
    ),
    ("file system limits", "statfs .; statfs dir/file"),
];

const PERMISSION: &[Case] = &[
    (
        "read and write as another user",
        "as 1000 1000; open dir/file rd; open dir/file wr; open owned/file rw; open owned/file rd",
    ),
    (
        "search of a private directory",
        "as 1000 1000; open private/secret rd; ls private; stat private p; lstat private/secret",
    ),
    (
        "access",
        "as 1000 1000; access dir/file r; access dir/file w; access dir/exec x; access dir/file x; access private x",
    ),
    (
        "execute as root",
        "access dir/file x; access dir/exec x; access dir x",
    ),
    (
        "group decides",
        "as 1002 1000; open group rd; open group wr; access group r; as 1002 5; open group rd",
    ),
    (
        "create where allowed",
        "as 1000 1000; open owned/new wr,creat; open dir/new wr,creat; open sticky/new wr,creat; stat owned/new u",
    ),
    (
        "sticky rename",
        "as 1000 1000; rename sticky/foreign sticky/x; rename sticky/mine sticky/x; rename sticky/x owned/x; ls owned",
    ),
    (
        "sticky replace",
        "as 1000 1000; rename sticky/mine sticky/foreign; ls sticky",
    ),
    (
        "own file copies up as its owner",
        "as 1000 1000; hold 0 owned/file rw; write 0 0 MINE; cat owned/file; as 0 0; stat owned/file pu",
    ),
    (
        "own directory made writable",
        "as 1000 1000; chmod owned 700; mkdir owned/d 700; as 1001 1001; ls owned; open owned/file rd",
    ),
    (
        "root overrides",
        "open private/secret rw; chmod private/secret 000; open private/secret rw; cat private/secret",
    ),
    (
        "world writable file",
        "as 1000 1000; hold 0 writable wr; write 0 0 free; as 0 0; stat writable u; cat writable",
    ),
    (
        "rename out of a directory of others",
        "as 1000 1000; rename dir/file owned/file2; rename owned/file dir/file2; ls owned",
    ),
    (
        "truncate flag needs write permission",
        "as 1000 1000; open dir/file rd,trunc; stat dir/file s",
    ),
];

const NAMES: &[Case] = &[
    (
        "longest",
        "open N255 wr,creat; stat N255 s; unlink N255; mkdir N255 755; rmdir N255",
    ),
    (
        "too long",
        "open N256 wr,creat; mkdir N256 755; symlink x N256; mknod N256 p 600; rename dir/file N256; link dir/file N256; stat N256; unlink N256",
    ),
    (
        "longest below",
        "cat longs/N255; unlink longs/N255; ls longs; open longs/N255 wr,creat; stat longs/N255 s",
    ),
    (
        "path too long",
        "open LONG rd; mkdir LONG 755; stat LONG; rename dir/file LONG",
    ),
    (
        "odd bytes",
        "cat odd/\u{1}\u{7f}; cat odd/äöü; cat odd/-rf; open odd/new\\name wr,creat; ls odd",
    ),
    (
        "hidden and dotted",
        "ls dots; open dots/... wr,creat; open dots/.wh.x wr,creat; ls dots",
    ),
    (
        "case matters",
        "open dir/FILE wr,creat; ls dir; unlink dir/FILE; cat dir/file",
    ),
    (
        "longest rename over longest",
        "open N254 wr,creat; rename N254 longs/N255; stat longs/N255 s; ls longs",
    ),
];
