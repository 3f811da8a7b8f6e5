from dbp_client.cli import main

main()
