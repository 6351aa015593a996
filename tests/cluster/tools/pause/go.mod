module exfm/tests/cluster/tools/pause

go 1.24.0

tool exfm/tests/cluster/tools/pause
