"""F-BiFPN-MTLNet (Liu, Zheng and Dong, JEIT 2025), rebuilt from its abstract and the papers it cites.

Read bottom-up: config, attention, pyramid, branches, network. docs/models.md says what is published and what is rebuilt.
"""
