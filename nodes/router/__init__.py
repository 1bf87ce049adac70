"""Router: style experts on one model, each acting where its region is (RegionRoute)."""
