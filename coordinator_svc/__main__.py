from coordinator_svc.server import main

main()
