from tool_svc.server import main

main()
