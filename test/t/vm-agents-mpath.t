#!/bin/sh
# See LICENSE file for copyright and license details.
# fence_mpath beside guests; see ../vm/case/agents-mpath.sh.
cd "$(dirname "$0")/../.." || exit
exec test/vm/boot agents-mpath test/vm/lib-agents.sh=/lib-agents.sh
