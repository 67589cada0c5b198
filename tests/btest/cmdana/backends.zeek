# @TEST-DOC: The scripts load under each cluster backend and with none, with each way to listen, without a warning of the parser.
# @TEST-EXEC: zeek -a $CMDANA >out 2>&1
# @TEST-EXEC: zeek -a frameworks/cluster/backend/broker $CMDANA >>out 2>&1
# @TEST-EXEC: zeek -a frameworks/cluster/backend/zeromq $CMDANA >>out 2>&1
# @TEST-EXEC: zeek -a $CMDANA $CMDANA/listen-websocket.zeek >>out 2>&1
# @TEST-EXEC: zeek -a frameworks/cluster/backend/zeromq $CMDANA $CMDANA/listen-websocket.zeek >>out 2>&1
# @TEST-EXEC: zeek -a $CMDANA $CMDANA/listen-broker.zeek >>out 2>&1
# @TEST-EXEC: zeek -a $CMDANA/replay.zeek >>out 2>&1
# @TEST-EXEC: zeek -a local $CMDANA >>out 2>&1
# As in Zeek 8.0, which knows no absence of a backend, and in one that is built without Broker:
# @TEST-EXEC: cp -r $CMDANA older; sed -i -e s/CLUSTER_BACKEND_NONE/NOT_THERE/ -e s/Broker::listen/Broker::not_there/ older/*.zeek
# @TEST-EXEC: zeek -a frameworks/cluster/backend/broker older older/listen-websocket.zeek >>out 2>&1
# @TEST-EXEC: zeek -a older older/listen-broker.zeek >>out 2>&1
# @TEST-EXEC: TEST_DIFF_CANONIFIER=$TEST_BASE/Scripts/canon btest-diff out
